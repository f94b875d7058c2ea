"""Adapters for diffusers' unmodified UNets: their design, and attaching, saving and loading them.

    spec = AdapterSpec.parse("attn2o-ffni", mid_dim=60)
    adapters = attach(unet, spec)      # one in every matching block; the UNet is changed by hooks only
    optimizer = AdamW(adapters.parameters())
    adapters.save(folder); adapters.detach()

Files: spec (the design, free of torch), modules (the adapter's function), taps (interprets the table of
positions as hooks), handle (attach and what it returns), store (sdpet's folder), reference (the public code's folder).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sdpet.adapters.handle import Adapters, attach, count_parameters, matching_blocks, mid_dim_for
    from sdpet.adapters.reference import export_reference
    from sdpet.adapters.spec import AdapterSpec
    from sdpet.adapters.store import load_adapters

_HOME = {
    "AdapterSpec": "spec",
    "Adapters": "handle",
    "attach": "handle",
    "count_parameters": "handle",
    "export_reference": "reference",
    "load_adapters": "store",
    "matching_blocks": "handle",
    "mid_dim_for": "handle",
}
__all__ = [
    "AdapterSpec",
    "Adapters",
    "attach",
    "count_parameters",
    "export_reference",
    "load_adapters",
    "matching_blocks",
    "mid_dim_for",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
