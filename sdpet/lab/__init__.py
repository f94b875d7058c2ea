"""The lab: a small world of captioned images with a VAE, text encoder, UNet and scorer that ship with the package.

Files: world (scenes as numbers), captions and drawing (scenes in words and as images), architecture (the networks,
untrained), scorer and judge (their use), check and pretrain (commands), convert (weights from open_clip).
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
