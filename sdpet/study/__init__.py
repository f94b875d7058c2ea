"""Studies: many runs planned, claimed, shared out to processes and summed up. Nothing here imports torch."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
