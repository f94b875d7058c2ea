"""How each of peft's methods is configured: its class, the arguments of its size and scale, and its usual targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")  # of self- and cross-attention, as for LoRA
FEEDFORWARD = ".ff."  # part of the paths of layers outside attention


@dataclass(frozen=True)
class Kind:
    """One of peft's methods.

    Parameters
    ----------
    config : str
        Name of its config class in peft.
    size : str, optional
        The config's argument for the size; None if the method has no size.
    alpha : str, optional
        The config's argument for rank x scale; None if the method has no scale.
    fixed : mapping
        Further arguments that make the method what it is.
    targets : tuple of str
        The usual targets.
    searched : mapping
        Options whose values are tried, besides the size, when a number of parameters is matched.
    """

    config: str
    size: str | None = "r"
    alpha: str | None = None
    fixed: Mapping[str, Any] = field(default_factory=dict)
    targets: tuple[str, ...] = ATTENTION
    searched: Mapping[str, Sequence[Any]] = field(default_factory=dict)


KINDS = {  # sdpet.choices.PEFT_METHODS
    "dora": Kind("LoraConfig", alpha="lora_alpha", fixed={"use_dora": True}),
    "lokr": Kind("LoKrConfig", alpha="alpha", searched={"decompose_factor": (-1, 2, 4, 8, 16)}),
    "loha": Kind("LoHaConfig", alpha="alpha"),
    "oft": Kind("OFTConfig", size="oft_block_size"),
    "ia3": Kind("IA3Config", size=None, targets=("to_k", "to_v", "ff.net.2")),
    "vera": Kind("VeraConfig"),
}


def peft_config(
    method: str, size: int | None, scale: float | None, options: Mapping[str, Any], paths: Sequence[str]
) -> Any:
    """Make peft's config of a method.

    Parameters
    ----------
    method : str
        One of KINDS.
    size : int or None
        Rank or size of a block.
    scale : float or None
        Factor on the update.
    options : mapping
        Further arguments of the config.
    paths : sequence of str
        Paths of the layers.

    Returns
    -------
    peft.PeftConfig
    """
    import peft

    kind = KINDS[method]
    arguments: dict[str, Any] = {**kind.fixed, **options, "target_modules": list(paths)}
    if kind.size is not None:
        arguments[kind.size] = size
    if kind.alpha is not None and size is not None and scale is not None:
        arguments[kind.alpha] = size * scale
    if method == "ia3":
        arguments["feedforward_modules"] = [path for path in paths if FEEDFORWARD in path]
    return getattr(peft, kind.config)(**arguments)
