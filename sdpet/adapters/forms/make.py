"""Making a form that fits a place: which class, with which options, and how its weights begin."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from sdpet.adapters.forms.bottleneck import Bottleneck
from sdpet.adapters.forms.call import mark
from sdpet.adapters.forms.convolution import Conv
from sdpet.adapters.forms.pointwise import Gated, LowRank, ScaleShift
from sdpet.adapters.forms.shape import FormShape
from sdpet.adapters.spec import AdapterSpec

_FILLED_IN = ("activation", "layout", "groups")  # arguments that are no options of the user's
FORM_CLASSES: dict[str, type[nn.Module]] = {
    "bottleneck": Bottleneck,
    "lowrank": LowRank,
    "conv": Conv,
    "scale_shift": ScaleShift,
    "gated": Gated,
}


def make_form(spec: AdapterSpec, shape: FormShape) -> nn.Module:
    """Make the form of a design for a shape.

    Parameters
    ----------
    spec : AdapterSpec
    shape : FormShape

    Returns
    -------
    nn.Module
        On the CPU (or the default device) in the default dtype, with weights drawn from the global random generator.

    Raises
    ------
    ValueError
        The class cannot be imported or is no form, does not take an option, or does not fit the place.
    """
    kind = check_class(spec.form, spec.options, spec.activation)
    grid = "grid" in inspect.signature(kind.forward).parameters
    if grid and not shape.on_a_grid:
        raise ValueError(f"the form {spec.form} needs the image's tokens, and at {spec.placement} there are others.")
    options = _options(kind, spec, shape)
    try:
        form = kind(shape.c_in, shape.c_out, spec.mid_dim or 1, **options)
    except (TypeError, ValueError, AssertionError) as error:
        channels = f"{shape.c_in} to {shape.c_out} channels at {spec.placement}"
        raise ValueError(f"the form {spec.form} cannot be made from {channels}: {error}.") from error
    parameters = list(form.parameters())
    if not parameters or not all(p.requires_grad for p in parameters):
        raise ValueError(
            f"the form {spec.form} must have parameters, and train all of them; register what is fixed as a buffer."
        )
    if spec.init == "zero":
        start = getattr(form, "start_at_zero", None)
        if start is None:
            raise ValueError(
                f"the form {spec.form} has no method start_at_zero, which init=zero needs; write one, or use "
                "init=default."
            )
        with torch.no_grad():
            start()
    mark(form, maps="layout" in _arguments(kind), grid=grid)
    return form


def form_class(name: str) -> type[nn.Module]:
    """The class of a form.

    Parameters
    ----------
    name : str
        A key of `FORM_CLASSES`, or the Python path of a class.

    Raises
    ------
    ValueError
        There is no such class, or it is no `nn.Module`.
    """
    if name in FORM_CLASSES:
        return FORM_CLASSES[name]
    module, _, attribute = name.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"the form {name} cannot be imported ({error}); install its package, or put its folder on PYTHONPATH."
        ) from error
    if not isinstance(found, type) or not issubclass(found, nn.Module):
        raise ValueError(f"the form {name} must be a subclass of torch.nn.Module, see sdpet.adapters.Form.")
    return found


def _arguments(kind: type) -> dict[str, inspect.Parameter]:
    """The arguments of the form's `__init__` by name, without c_in, c_out and width."""
    return dict(list(inspect.signature(kind).parameters.items())[3:])


def check_class(name: str, options: Mapping[str, Any], activation: str | None) -> type[nn.Module]:
    """Check that a form's class exists and takes options and activation, and is given what it needs.

    Parameters
    ----------
    name : str
        See `form_class`.
    options : mapping
        By name.
    activation : str or None
        None if none is given.

    Returns
    -------
    type

    Raises
    ------
    ValueError
        One sentence that names the option.
    """
    kind = form_class(name)
    arguments = _arguments(kind)
    names = [n for n, a in arguments.items() if a.kind is not inspect.Parameter.VAR_KEYWORD]
    open_ended = len(names) < len(arguments)
    own = [n for n in names if n not in _FILLED_IN]
    for option in options:
        if option not in own and not open_ended:
            takes = f"its options are {', '.join(own)}" if own else "it has none"
            raise ValueError(f"the form {name} has no option {option!r}; {takes}.")
    if activation is not None and "activation" not in names and not open_ended:
        raise ValueError(f"the form {name} takes no activation; leave it out (adapter.activation=null).")
    given = {*options, "layout", "groups", *(["activation"] if activation is not None else [])}
    needed = [n for n in names if arguments[n].default is inspect.Parameter.empty and n not in given]
    if needed == ["activation"]:
        raise ValueError(f"the form {name} needs an activation: adapter.activation=relu, for example.")
    if needed:
        raise ValueError(f"the form {name} needs the option {needed[0]}: +form.{needed[0]}=VALUE.")
    return kind


def _options(kind: type, spec: AdapterSpec, shape: FormShape) -> dict[str, Any]:
    given = dict(spec.options)
    if spec.activation is not None:
        given["activation"] = spec.activation
    return given | {key: getattr(shape, key) for key in ("layout", "groups") if key in _arguments(kind)}
