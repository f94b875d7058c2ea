from .config import TrainConfig as TrainConfig
from .module import Member as Member
from .peak_memory import PeakMemory as PeakMemory
from .rank import Rank as Rank
from .trainer import FitResult as FitResult
from .trainer import fit as fit
from .trainer import fit_together as fit_together
from .validation import Validation as Validation
