"""Base models: found on disk or in the hub's cache, loaded, and described before they are loaded."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
