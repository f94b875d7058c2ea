"""Parts of a run that are the user's own, or Lightning's: tasks, samplers, callbacks and others, named by Python path.

All names are looked up here. Configs that others wrote pass `sdpet.files.trust` before they come here.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any


@dataclass(frozen=True)
class PartKind:
    """What sdpet asks of one kind of part.

    Parameters
    ----------
    words : str
        The kind in words, with its article.
    protocol : str
        Where its interface is documented.
    needs : tuple of str
        Methods that an object of this kind must have.
    offered : tuple of str
        Arguments that sdpet gives to its class where the class names them.
    must_take : tuple of str
        Arguments that the class must name.
    filled : tuple of str
        Arguments that sdpet gives where the class names them and the config does not set them.
    """

    words: str
    protocol: str
    needs: tuple[str, ...]
    offered: tuple[str, ...] = ()
    must_take: tuple[str, ...] = ()
    filled: tuple[str, ...] = ()


SUBJECT_ARGUMENTS = ("subject_dir", "class_dir", "heldout_dir", "data", "prompt", "class_prompt", "token")
CAPTION_ARGUMENTS = (
    "data", "heldout_share", "source", "image_column", "caption_column", "images", "captions", "heldout_images",
    "heldout_captions",
)  # fmt: skip
PART_KINDS = {
    "task": PartKind(
        "a task",
        "sdpet.tasks.Task",
        ("batch", "loss", "eval_images", "measures", "scores", "ceiling", "ceiling_hash", "reference_protocol",
         "describe"),
        ("base", "batch_size", "cache"),
        ("base",),
    ),
    "subject data": PartKind(
        "data of a subject", "sdpet.tasks.SubjectSource", ("subject_images", "class_images", "heldout_images")
    ),
    "captions data": PartKind("captioned data", "sdpet.tasks.CaptionedSource", ("training", "heldout")),
    "sampler": PartKind(
        "a sampler", "sdpet.sampling.Sampler", ("step",), ("scheduler", "steps", "skip"), ("steps", "skip")
    ),
    "scorer": PartKind("a scorer", "sdpet.scoring.Scorer", ()),
    "optimizer": PartKind(
        "an optimiser", "torch.optim.Optimizer", ("step", "zero_grad", "state_dict"), ("lr",), ("lr",)
    ),
    "callback": PartKind("a callback", "lightning.pytorch.Callback", ("on_train_batch_end", "state_dict")),
    "profiler": PartKind(
        "a profiler", "lightning.pytorch.profilers.Profiler", ("start", "stop", "summary"),
        filled=("dirpath", "filename"),
    ),
    "strategy": PartKind(
        "a strategy", "lightning.pytorch.strategies.DDPStrategy", ("setup",),
        ("cluster_environment", "process_group_backend", "timeout"),
        ("cluster_environment", "process_group_backend", "timeout"),
    ),
    "logger": PartKind(
        "a logger", "lightning.pytorch.loggers.Logger", ("log_metrics", "log_hyperparams", "finalize"),
        filled=("save_dir", "name", "version", "experiment_name", "run_name", "project"),
    ),
}  # fmt: skip


@cache
def load_named(target: str, kind: str, key: str) -> Callable[..., Any]:
    """Look up what a config names.

    Parameters
    ----------
    target : str
        The Python path of a class or function.
    kind : str
        A key of PART_KINDS.
    key : str
        The key of the config that names it, for the error.

    Returns
    -------
    callable

    Raises
    ------
    ValueError
        It cannot be imported or called, or its class lacks a method that sdpet calls.
    """
    module, _, name = target.rpartition(".")
    if not module or not all(part.isidentifier() for part in target.split(".")):
        raise ValueError(f"{key} must be the Python path of a class, such as my_lab.MyClass, not {target!r}.")
    try:
        found = getattr(importlib.import_module(module), name)
    except AttributeError:
        raise ValueError(f"{key} {target}: the module {module} has no {name}.") from None
    except ImportError as error:
        raise ValueError(
            f"{key} {target} cannot be imported ({error}); install its package, or put its folder on PYTHONPATH."
        ) from error
    if not callable(found):
        raise ValueError(f"{key} {target} must be a class or a function, not {type(found).__name__}.")
    if isinstance(found, type):
        require_methods(found, target, kind, key)
    return found


def require_methods(found: Any, target: str, kind: str, key: str, *more: str) -> None:
    """Raise ValueError if a class or an object lacks a method that sdpet calls; `more` are names beyond the kind's."""
    of = PART_KINDS[kind]
    lacking = [name for name in (*of.needs, *more) if not hasattr(found, name)]
    if lacking:
        raise ValueError(f"{key} {target} lacks {', '.join(lacking)}, which {of.words} must have; see {of.protocol}.")


def require_plain_step(found: Any, target: str) -> None:
    """Raise ValueError for an optimiser whose step needs a function that computes the loss, such as L-BFGS."""
    step = getattr(found, "step", None)
    needed = {} if step is None else _parameters(step)[0]
    if "closure" in needed and needed["closure"].default is inspect.Parameter.empty:
        raise ValueError(
            f"the optimiser {target} computes the loss several times a step, which this training does not; choose one "
            "whose step needs no closure."
        )


def check_arguments(
    make: Callable[..., Any], target: str, kind: str, key: str, options: Collection[str], more: Collection[str] = ()
) -> None:
    """Check that a class takes the options of the config, and needs nothing that nobody gives.

    Parameters
    ----------
    make : callable
        What `load_named` returned.
    target, kind, key
        As for `load_named`.
    options : collection of str
        Names of the options in the config.
    more : collection of str
        Arguments that sdpet offers beyond those of the kind.

    Raises
    ------
    ValueError
        One sentence that names the argument.
    """
    of, group = PART_KINDS[kind], key.removesuffix("._target_")
    takes, open_ended = _parameters(make)
    own = [name for name in takes if name not in (*of.offered, *more)]
    for name in of.must_take:
        if name not in takes and not open_ended:
            raise ValueError(f"{key} {target} must take the argument {name}; see {of.protocol}.")
    for name in options:
        if name in of.offered or name in more:
            raise ValueError(f"{group}.{name} cannot be set for {target}, as sdpet gives this argument itself.")
        if name not in takes and not open_ended:
            known = f"its options are {', '.join(own)}" if own else "it has none"
            raise ValueError(f"{group}.{name}: {target} has no option {name}; {known}.")
    needed = [name for name in own if takes[name].default is inspect.Parameter.empty and name not in options]
    needed = [name for name in needed if name not in of.filled]
    if kind == "optimizer":
        needed = needed[1:]  # the parameters, given first
    if needed:
        raise ValueError(f"{target} needs the option {needed[0]}: +{group}.{needed[0]}=VALUE.")


def accepted(make: Callable[..., Any], arguments: Mapping[str, Any], by_name: bool = False) -> dict[str, Any]:
    """Those of the arguments that a class or function takes.

    Parameters
    ----------
    make : callable
    arguments : mapping
        Values by name.
    by_name : bool
        Only those that it names, even if it takes any (``**options``).

    Returns
    -------
    dict
    """
    takes, open_ended = _parameters(make)
    return {name: value for name, value in arguments.items() if name in takes or (open_ended and not by_name)}


def _parameters(make: Callable[..., Any]) -> tuple[dict[str, inspect.Parameter], bool]:
    """The named parameters of a callable, and whether it takes any others."""
    try:
        found = inspect.signature(make).parameters
    except (TypeError, ValueError):  # some built-in classes have no signature
        return {}, True
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    open_ended = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in found.values())
    return {name: p for name, p in found.items() if p.kind not in kinds}, open_ended
