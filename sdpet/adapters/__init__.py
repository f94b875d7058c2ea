"""Adapters for diffusers' unmodified UNets: their design, and attaching, saving and loading them.

    spec = AdapterSpec.parse("attn2o-ffni", mid_dim=60)
    adapters = attach(unet, spec)      # one in every matching block; forward hooks are the only change
    optimizer = AdamW(adapters.parameters())
    adapters.save(folder); adapters.detach()

Files: positions (the table, free of torch), spec (the design, free of torch), forms (the adapter's function), edges
and hooks (the table as forward hooks), inputs (the model's timesteps and size), attachment (attach), attached (the
handle that it returns), compiled (UNets that torch.compile compiled before), format (sdpet's folder), load,
paper_format (the public code's folder), fleet and stacked (adapters of many designs on one UNet).
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
