"""Adapters for diffusers' unmodified UNets and transformers: their design, and attaching, saving and loading them.

    spec = AdapterSpec.parse("attn2o-ffni", mid_dim=60)
    adapters = attach(unet, spec)      # one in every matching block; forward hooks are the only change
    optimizer = AdamW(adapters.parameters())
    adapters.save(folder); adapters.detach()

Files: tables (where the positions of each block class are, free of torch), positions (their vocabulary, free of torch),
spec (the design, free of torch), routes (a placement in a model's blocks), parts (denoiser and text encoders of a
pipeline as one model), forms (the adapter's function), edges and hooks (a route as forward hooks), inputs (the model's
timesteps and size), attachment (attach), attached (the handle that it returns), compiled (UNets that torch.compile
compiled before), format (sdpet's folder), load, paper_format (the public code's folder), fleet and stacked (adapters of
many designs on one UNet).
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
