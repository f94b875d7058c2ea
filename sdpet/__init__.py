"""sdpet: factorial experiments on adapters for diffusion models.

Importing the package is quick: what needs torch is loaded when it is first asked for.
"""

import lazy_loader

__version__ = "0.1.0"
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__all__ = [*__all__, "__version__"]
