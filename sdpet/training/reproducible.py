"""Settings of torch that change the bits of results: deterministic algorithms and TF32."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

CUBLAS = "CUBLAS_WORKSPACE_CONFIG"  # cuBLAS is deterministic only with a workspace of fixed size


@contextmanager
def numerics(device: torch.device | str, deterministic: bool | str = False, tf32: bool | None = None) -> Iterator[None]:
    """Apply settings inside the block, and restore what was set before.

    Parameters
    ----------
    device : torch.device or str
        TF32 is only for CUDA devices.
    deterministic : bool or "warn"
        True: torch uses deterministic algorithms, and operations without one raise RuntimeError. "warn": they warn.
    tf32 : bool, optional
        Whether matrix products and convolutions of float32 round their inputs to TF32 (10 bits of mantissa). None
        leaves torch's own choice: convolutions do, matrix products do not.
    """
    algorithms = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    products, convolutions, workspace = (
        torch.get_float32_matmul_precision(),
        torch.backends.cudnn.allow_tf32,
        os.environ.get(CUBLAS),
    )
    sets_tf32 = tf32 is not None and torch.device(device).type == "cuda"
    try:
        if deterministic:
            os.environ.setdefault(CUBLAS, ":4096:8")
            torch.use_deterministic_algorithms(True, warn_only=deterministic == "warn")
        if sets_tf32:
            torch.set_float32_matmul_precision("high" if tf32 else "highest")
            torch.backends.cudnn.allow_tf32 = bool(tf32)
        yield
    finally:
        if deterministic:
            torch.use_deterministic_algorithms(algorithms[0], warn_only=algorithms[1])
            if workspace is None:
                os.environ.pop(CUBLAS, None)
        if sets_tf32:
            torch.set_float32_matmul_precision(products)
            torch.backends.cudnn.allow_tf32 = convolutions
