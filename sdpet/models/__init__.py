"""Base models: finding them on disk or in the hub's cache, loading them, and estimating their size before that."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
