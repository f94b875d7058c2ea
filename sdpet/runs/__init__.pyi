from .record import Record as Record
from .record import bin_loss as bin_loss
from .setup import Resources as Resources
from .start import run as run
from .start import run_together as run_together
from .stored import find_runs as find_runs
from .stored import stored_config as stored_config
