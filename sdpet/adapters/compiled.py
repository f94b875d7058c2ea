"""Hooks and `torch.compile`: what to do when adapters come after the UNet was compiled."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator

import torch


def forget_compiled() -> None:
    """Have torch compile models anew when they run next, if this process has compiled any.

    Compiled code contains the hooks that were there when it was compiled, and torch does not check whether others have
    come since. So adapters that are attached to a UNet that was compiled and has run would have no effect. Torch cannot
    drop the code of one model, which may be part of a larger compiled function: `torch.compiler.reset` drops all, and
    other models are compiled again, too. Removing hooks needs no such care, as torch notices that they are gone.
    """
    if "torch._dynamo" in sys.modules and _has_compiled():
        logging.getLogger("sdpet").info("Adapters came after torch.compile; compiled models will be compiled again.")
        torch.compiler.reset()


@contextlib.contextmanager
def compiled(model: torch.nn.Module, graphs: bool = False) -> Iterator[None]:
    """Compile a model with the hooks that it carries, for as long as the block lasts.

    With `graphs`, CUDA graphs are recorded, too; torch.compiler.cudagraph_mark_step_begin must then begin each step.
    """
    before = model._compiled_call_impl
    torch.compiler.reset()  # code compiled earlier does not contain the current hooks
    model.compile(mode="reduce-overhead" if graphs else None)
    try:
        yield
    finally:
        model._compiled_call_impl = before
        torch.compiler.reset()


@contextlib.contextmanager
def uncompiled(model: torch.nn.Module) -> Iterator[None]:
    """Turn torch.compile off for a model inside the block, since compiling it for other shapes takes long."""
    before, model._compiled_call_impl = model._compiled_call_impl, None
    try:
        yield
    finally:
        model._compiled_call_impl = before


def _has_compiled() -> bool:
    try:
        return bool(sys.modules["torch._dynamo.convert_frame"].input_codes.seen)
    except (KeyError, AttributeError):  # torch has no public function for this; without it there may be compiled code
        return True
