"""Sampling: the denoising loop with classifier-free guidance, and the samplers' update rules."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
