from .adapters import Adapters as Adapters
from .adapters import AdapterSpec as AdapterSpec
from .adapters import attach as attach
from .adapters import attached_adapters as attached_adapters
from .adapters import detach_all as detach_all
from .adapters import export_reference as export_reference
from .adapters import load_adapters as load_adapters
from .adapters import mid_dim_for as mid_dim_for

__version__: str
