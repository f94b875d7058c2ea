"""sdpet: factorial experiments on adapters for diffusion models.

Importing the package is quick: what needs torch is loaded when it is first asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sdpet.adapters import Adapters, AdapterSpec, attach, export_reference, load_adapters, mid_dim_for

__version__ = "0.1.0"

__all__ = [
    "AdapterSpec",
    "Adapters",
    "__version__",
    "attach",
    "export_reference",
    "load_adapters",
    "mid_dim_for",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(importlib.import_module("sdpet.adapters"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
