from .config import SamplerConfig as SamplerConfig
from .config import Start as Start
from .loop import NOT_FINITE as NOT_FINITE
from .loop import StepCallback as StepCallback
from .loop import denoise as denoise
from .loop import sample as sample
from .loop import sample_together as sample_together
from .samplers import Sampler as Sampler
