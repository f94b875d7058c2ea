"""Which model adapters were made for: a few of its weights, kept with the adapters and compared when they are loaded.

Adapters fit every model with blocks of the same widths, and do harm in another one than theirs. A hash of a file would
differ between copies of one model in several formats and precisions. So values of weights are kept, and compared with
a tolerance that rounding to bfloat16 stays within and that another training of the model does not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from sdpet.adapters.parts import Parts

TENSORS, EACH = 32, 2  # how many tensors a sample is taken from, and how many values of each
TOLERANCE = 2.0**-7  # relative; bfloat16 rounds by at most 2^-9


def sample_weights(model: nn.Module | Mapping[str, torch.Tensor]) -> list[float] | None:
    """A sample of a model's weights.

    Parameters
    ----------
    model : nn.Module or mapping of str to Tensor
        A UNet, a transformer or a text encoder, or its parameters by name. Adapters in it are no part of it. Of
        `Parts` each part is sampled.

    Returns
    -------
    list of float or None
        At most 64 values of matrices and kernels that are spread over the model (or part), by the names of the
        parameters; None for a model without weights, such as one on the device "meta".
    """
    if isinstance(model, Parts):
        samples = [sample_weights(part) for part in model.children()]
        return None if None in samples else [value for sample in samples for value in sample or ()]
    parameters = dict(model.named_parameters()) if isinstance(model, nn.Module) else model
    named = sorted((name, p) for name, p in parameters.items() if p.ndim > 1 and p.is_floating_point())
    if not named or any(p.is_meta for _, p in named):
        return None
    count = min(TENSORS, len(named))
    chosen = [named[i * len(named) // count][1].detach() for i in range(count)]
    values = [p.flatten()[[p.numel() // 3 * (k + 1) - 1 for k in range(EACH)]] for p in chosen if p.numel() >= 3]
    return [round(float(value), 8) for value in torch.cat([v.float().cpu() for v in values])] if values else None


def is_other_model(saved: Any, model: nn.Module | Mapping[str, torch.Tensor]) -> bool:
    """Whether adapters, or the weights of another method, were made for another model than this one.

    Parameters
    ----------
    saved : any
        What their JSON file holds of the model; None in folders of version 0.1.0.
    model : nn.Module or mapping of str to Tensor
        As for `sample_weights`.

    Returns
    -------
    bool
        False where it cannot be told.
    """
    own = sample_weights(model)
    if own is None or not isinstance(saved, Sequence) or not all(isinstance(v, int | float) for v in saved):
        return False
    if len(saved) != len(own):
        return True
    return any(abs(a - b) > TOLERANCE * max(abs(a), abs(b)) + 1e-6 for a, b in zip(saved, own, strict=True))
