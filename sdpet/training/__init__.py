"""Training with Lightning: one run, or a fleet of runs that share each forward pass of the UNet."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
