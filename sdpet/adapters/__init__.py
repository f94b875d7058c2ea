"""Adapters for diffusers' unmodified UNets: their design, and attaching, saving and loading them.

    spec = AdapterSpec.parse("attn2o-ffni", mid_dim=60)
    adapters = attach(unet, spec)      # one in every matching block; the UNet is changed by hooks only
    optimizer = AdamW(adapters.parameters())
    adapters.save(folder); adapters.detach()

Files: positions (the table, free of torch), spec (the design, free of torch), modules (the adapter's function), hooks
(interprets the table as forward hooks), attachment (attach and what it returns), format (sdpet's folder), load,
paper_format (the public code's folder), fleet and stacked (adapters of many designs on one UNet).
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
