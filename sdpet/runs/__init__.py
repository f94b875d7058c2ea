"""Runs: train, sample and score one design, in a folder that is complete when it has a record."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
