"""The design of an adapter: where it reads and writes, and the form of its function. Free of torch."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from numbers import Integral, Real
from typing import Any

from sdpet.adapters.positions import check_placement, datapath_order, split_placement
from sdpet.choices import ACTIVATION_ALIASES, ACTIVATIONS, BLOCKS, DEFAULT_FORM, FORMS, INITS

JOIN = "+"  # between several placements of one design
ALWAYS = (0.0, 1.0)
_DEFAULT_WIDTH, _DEFAULT_ACTIVATION = 60, "relu"
_FILLED_IN = ("c_in", "c_out", "width", "activation", "layout", "groups")  # arguments of a form that are no options
_SINCE_FORMS = ("form", "options", "blocks", "when", "placements")  # not written where they have their defaults


@dataclass(frozen=True)
class AdapterSpec:
    """A point in the space of designs: a placement, the form of the adapter's function, and where and when it acts.

    Parameters
    ----------
    din, dout : str, optional
        Positions where the adapter reads and writes; see sdpet.adapters.positions. None for several placements.
    activation : str, optional
        relu, sig, silu, ident, or another activation of torch.nn that acts on every number by itself, such as gelu.
        None is relu, for forms of sdpet's that have an activation.
    mid_dim : int, optional
        Width of the form. None is the paper's 60, for forms that have a width: 1.5 M parameters on Stable Diffusion v1
        for the bottleneck. Several placements have the same width.
    scale : float
        Factor on what the adapter adds.
    init : {"zero", "default"}
        "zero": the form starts at zero, so step 0 is the base model. "default": PyTorch's initialisation, as in the
        reference code.
    form : str
        bottleneck (the paper's), lowrank, conv, scale_shift or gated; or the Python path of a class, see
        `sdpet.adapters.Form`.
    options : mapping of str to plain values
        Further arguments of the form's class.
    blocks : str
        Which blocks of the model carry adapters: all, down, mid, up, or a regular expression that is searched in the
        blocks' paths.
    when : pair of float
        The share of the noise schedule in which the adapter acts, from 0 (clean) to 1 (noise): ``when[0] <= t <
        when[1]``, with t the timestep over the number of timesteps, and t = 1 included if when[1] is 1. It holds in
        training and in sampling; outside of it the model is the base model.
    placements : sequence of str
        Several placements at once, each written ``din-dout``, instead of din and dout.

    Raises
    ------
    ValueError
        If a value is not valid; the message names the valid choices.

    References
    ----------
    Xiang et al. 2023, arXiv 2303.18181.
    """

    din: str | None = None
    dout: str | None = None
    activation: str | None = None
    mid_dim: int | None = None
    scale: float = 1.0
    init: str = "zero"
    form: str = DEFAULT_FORM
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    blocks: str = "all"
    when: tuple[float, float] = ALWAYS
    placements: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self._check_placements()
        self._check_form()
        if self.init not in INITS:
            raise ValueError(f"Unknown init {self.init!r}; choose one of {', '.join(INITS)}.")
        self._set(scale=finite("scale", self.scale), when=interval(self.when), blocks=check_blocks(self.blocks))

    def _set(self, **values: Any) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def _check_placements(self) -> None:
        if not self.placements:
            check_placement(self.din, self.dout)  # type: ignore[arg-type]
        elif self.din is not None or self.dout is not None:
            raise ValueError("Give din and dout, or placements, not both.")
        else:
            first, *others = placements = several(self.placements)
            din, dout = (None, None) if others else split_placement(first)
            self._set(placements=placements if others else (), din=din, dout=dout)

    def _check_form(self) -> None:
        takes = FORMS.get(self.form)
        if takes is None and not is_path(self.form):
            raise ValueError(f"Unknown form {self.form!r}; choose one of {', '.join(FORMS)}, or the path of a class.")
        if self.activation is None and takes is not None and "activation" in takes:
            self._set(activation=_DEFAULT_ACTIVATION)
        if self.activation is not None:
            if takes is not None and "activation" not in takes:
                raise ValueError(f"The form {self.form} takes no activation, so leave it out.")
            self._set(activation=known_activation(self.activation))
        if self.mid_dim is None and (takes is None or "mid_dim" in takes):
            self._set(mid_dim=_DEFAULT_WIDTH)
        if self.mid_dim is not None:
            if takes is not None and "mid_dim" not in takes:
                raise ValueError(f"The form {self.form} has no width, so leave mid_dim out.")
            if not isinstance(self.mid_dim, Integral) or isinstance(self.mid_dim, bool) or self.mid_dim < 1:
                raise ValueError(f"mid_dim must be a whole number of at least 1, not {self.mid_dim!r}.")
            self._set(mid_dim=int(self.mid_dim))
        self._set(options=check_options(self.options))

    @classmethod
    def parse(cls, placement: str, **form: Any) -> AdapterSpec:
        """Make a design from a written placement.

        Parameters
        ----------
        placement : str
            ``din-dout``, such as "attn2o-ffni", or several, such as "attn2o-ffni+resi-reso".
        **form
            The other parameters of `AdapterSpec`.

        Returns
        -------
        AdapterSpec

        Raises
        ------
        ValueError
            If the placement or a value is not valid; the message names the valid choices.
        """
        if JOIN in str(placement):
            return cls(placements=tuple(placement.split(JOIN)), **form)
        din, dout = split_placement(placement)
        return cls(din, dout, **form)

    @property
    def placement(self) -> str:
        """The placement, written ``din-dout``; several are joined by "+"."""
        return JOIN.join(self.placements) if self.placements else f"{self.din}-{self.dout}"

    @property
    def parts(self) -> tuple[AdapterSpec, ...]:
        """For each placement, the design with that placement alone."""
        if not self.placements:
            return (self,)
        split = (split_placement(placement) for placement in self.placements)
        return tuple(replace(self, din=din, dout=dout, placements=()) for din, dout in split)

    @property
    def words(self) -> str:
        """The form, and where and when it acts, such as "relu, mid_dim 60"; what is the paper's is left out."""
        form = [] if self.form == DEFAULT_FORM else [self.form]
        form += [f"{name} {value}" for name, value in self.options.items()]
        form += [self.activation] if self.activation is not None else []
        form += [f"mid_dim {self.mid_dim}"] if self.mid_dim is not None else []
        form += [f"blocks {self.blocks}"] if self.blocks != "all" else []
        form += ["when {:g} to {:g}".format(*self.when)] if self.when != ALWAYS else []
        return ", ".join(form)

    def described(self) -> dict[str, Any]:
        """The design as plain values, as in adapters.json: ``AdapterSpec(**values)`` makes it again."""
        neutral = {f.name: f.default for f in fields(self)} | {"options": {}}
        return {k: v for k, v in asdict(self).items() if k not in _SINCE_FORMS or v != neutral[k]}


def known_activation(name: object) -> str:
    """The name of an activation as in the list of choices, whatever its case; ValueError if there is none."""
    lower = str(name).lower()
    found = ACTIVATION_ALIASES.get(lower, lower)
    if found not in ACTIVATIONS:
        raise ValueError(f"Unknown activation {name!r}; choose one of {', '.join(ACTIVATIONS)}.")
    return found


def several(placements: Sequence[str]) -> tuple[str, ...]:
    """Several placements in the order of the table; ValueError if one is not valid or stands there twice."""
    if isinstance(placements, str) or not isinstance(placements, Sequence):
        raise ValueError(f"placements must be a list such as [attn2o-ffni,resi-reso], not {placements!r}.")
    found = ["-".join(split_placement(placement)) for placement in placements]
    if len(set(found)) < len(found):
        raise ValueError(f"placements must differ from each other, not {', '.join(found)}.")
    return tuple(sorted(found, key=datapath_order))


def interval(when: object) -> tuple[float, float]:
    """A share of the noise schedule; ValueError unless it is a pair of numbers with 0 <= first < second <= 1."""
    said = f"when must be two numbers with 0 <= first < second <= 1, such as [0,0.5], not {when!r}"
    if not isinstance(when, Sequence) or isinstance(when, str) or len(when) != 2:
        raise ValueError(f"{said}.")
    first, second = (finite("when", bound) for bound in when)
    if not 0 <= first < second <= 1:
        raise ValueError(f"{said}.")
    return first, second


def check_blocks(blocks: object) -> str:
    """all, down, mid, up, or a regular expression; ValueError if it is none."""
    if not isinstance(blocks, str) or not blocks:
        raise ValueError(f"blocks must be {', '.join(BLOCKS)} or a regular expression, not {blocks!r}.")
    try:
        re.compile(blocks)
    except re.error as error:
        raise ValueError(f"blocks {blocks!r} is no regular expression ({error}).") from None
    return blocks


def check_options(options: object) -> dict[str, Any]:
    """Options of a form by name; ValueError unless they are plain values under names of one's own."""
    if not isinstance(options, Mapping):
        raise ValueError(f"options must be values by name, not {options!r}.")
    for name, value in options.items():
        if not isinstance(name, str) or not name.isidentifier():
            raise ValueError(f"a form's option needs a name, not {name!r}.")
        if name in _FILLED_IN:
            raise ValueError(f"{name} is no option of a form: sdpet fills it in.")
        if not _is_plain(value):
            raise ValueError(f"the option {name} must be a number, a text, true, false, null or a list, not {value!r}.")
    return dict(options)


def is_path(name: object) -> bool:
    """Whether a name is the Python path of a class, such as my_lab.Gated."""
    return isinstance(name, str) and "." in name and all(part.isidentifier() for part in name.split("."))


def _is_plain(value: object) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


def finite(name: str, value: object) -> float:
    """Check a number.

    Parameters
    ----------
    name : str
        What errors call it.
    value : object

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If the value is not a finite number.
    """
    if not isinstance(value, Real) or isinstance(value, bool) or not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number, not {value!r}.")
    return float(value)
