"""How each of peft's methods is configured: its class, the arguments of its size and scale, and its usual targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sdpet.choices import PEFT_METHODS, check_peft_options

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")  # of self- and cross-attention, as for LoRA
TEXT_ATTENTION = ("q_proj", "k_proj", "v_proj", "out_proj")  # of the text encoder
FEEDFORWARD = (".ff.", ".mlp.")  # part of the paths of layers outside attention


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
        The usual targets in a UNet or transformer.
    text_targets : tuple of str
        Those in a text encoder.
    searched : mapping
        Options whose values are tried, besides the size, when a number of parameters is matched.
    """

    config: str
    size: str | None = "r"
    alpha: str | None = None
    fixed: Mapping[str, Any] = field(default_factory=dict)
    targets: tuple[str, ...] = ATTENTION
    text_targets: tuple[str, ...] = TEXT_ATTENTION
    searched: Mapping[str, Sequence[Any]] = field(default_factory=dict)


KINDS = {  # sdpet.choices.PEFT_METHODS
    "dora": Kind("LoraConfig", alpha="lora_alpha", fixed={"use_dora": True}),
    "lokr": Kind("LoKrConfig", alpha="alpha", searched={"decompose_factor": (-1, 2, 4, 8, 16)}),
    "loha": Kind("LoHaConfig", alpha="alpha"),
    "oft": Kind("OFTConfig", size="oft_block_size"),
    "ia3": Kind(
        "IA3Config", size=None, targets=("to_k", "to_v", "ff.net.2"), text_targets=("k_proj", "v_proj", "mlp.fc2")
    ),
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
        arguments["feedforward_modules"] = [path for path in paths if any(part in path for part in FEEDFORWARD)]
    return getattr(peft, kind.config)(**arguments)


@dataclass(frozen=True)
class PeftSpec:
    """One of peft's methods and its options. Creating the object checks them.

    Parameters
    ----------
    method : str
        One of `sdpet.choices.PEFT_METHODS`.
    size : int, optional
        The rank (dora, lokr, loha, vera) or the size of a block (oft). None for ia3, which has no size.
    scale : float, optional
        Factor on the update, peft's alpha / rank (dora, lokr, loha). None for the other methods, which have none.
    targets : tuple of str, optional
        Endings of the paths of the linear layers that are tuned, such as "to_q" or "ff.net.2", and "q_proj" or
        "mlp.fc2" in the text encoder. None takes q, k, v and out of all attention layers; for ia3, k and v of attention
        and the output of the feed-forward part.
    options : mapping
        Further arguments of peft's config, those of `sdpet.choices.PEFT_OPTIONS`.

    Raises
    ------
    ValueError
        One sentence that names what is wrong and the valid choices.
    """

    method: str
    size: int | None = None
    scale: float | None = None
    targets: tuple[str, ...] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.method not in PEFT_METHODS:
            raise ValueError(f"method {self.method!r} is not one of peft's; choose one of {', '.join(PEFT_METHODS)}.")
        kind = KINDS[self.method]
        for what, value, takes in (("size", self.size, kind.size), ("scale", self.scale, kind.alpha)):
            if (value is None) == (takes is not None):
                raise ValueError(f"method {self.method!r} {f'needs a {what}' if takes else f'takes no {what}'}.")
        if self.size is not None and (isinstance(self.size, bool) or not isinstance(self.size, int) or self.size < 1):
            raise ValueError(f"the size must be a whole number of at least 1, not {self.size!r}.")
        check_peft_options(self.method, dict(self.options))

    def words(self) -> str:
        """The method and its options in one line, such as "lokr, size 4, scale 1, decompose_factor 8"."""
        found = {"size": self.size, "scale": self.scale, **self.options}
        given = [f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}" for key, value in found.items()
                 if value is not None]  # fmt: skip
        return ", ".join([self.method, *given, f"targets {' '.join(self.targets or KINDS[self.method].targets)}"])
