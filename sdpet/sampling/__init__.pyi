from .loop import SamplerConfig as SamplerConfig
from .loop import denoise as denoise
from .loop import sample as sample
from .loop import sample_together as sample_together
