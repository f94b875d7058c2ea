"""Runs: a design trained, sampled and scored, in one folder that is complete when its record is there."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
