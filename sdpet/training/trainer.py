"""Train one run or a fleet of runs with Lightning's Trainer."""

from __future__ import annotations

import contextlib
import logging
import os
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed
from lightning.fabric.plugins.environments import LightningEnvironment
from lightning.pytorch import Trainer

from sdpet.adapters.compiled import compiled
from sdpet.methods import TunedModel
from sdpet.models.base import BaseModel
from sdpet.tasks import Task
from sdpet.training.config import TrainConfig
from sdpet.training.lightning_parts import ForwardedMetrics, LightningParts
from sdpet.training.members import FleetMembers, Member, SingleRun
from sdpet.training.module import SaveCallback, TrainingModule, ValidateCallback
from sdpet.training.peak_memory import PeakMemory
from sdpet.training.reproducible import numerics

if TYPE_CHECKING:
    from sdpet.training.rank import Rank

_LOOKED_AT, _NOTHING = 4096, 1e-9  # numbers of each tensor, and by how much weights change that do not move
TIMEOUT = timedelta(minutes=10)  # collective timeout; generous, since rank 0 may be writing a checkpoint


@dataclass(frozen=True)
class FitResult:
    """The result of training one run.

    Attributes
    ----------
    loss : list of float
        One value for each step.
    seconds : float
        Training time; in a fleet, the run's share of it.
    seconds_per_step : float
        Median time of a step; in a fleet, the run's share of it.
    peak_memory_bytes : int
        Peak memory of the GPU or, on the CPU, of the process.
    diverged : bool
        Whether training ended because a loss was not finite.
    moved : bool
        Whether training changed the weights; True as well where it was resumed, as that is not known then.
    """

    loss: list[float] = field(repr=False)
    seconds: float
    seconds_per_step: float
    peak_memory_bytes: int
    diverged: bool
    moved: bool = True


def fit(
    base: BaseModel,
    handle: TunedModel,
    task: Task,
    *,
    seed: int,
    on_step: Callable[[int, float], None] | None = None,
    **options: Any,
) -> FitResult:
    """Train one design on a task.

    Parameters
    ----------
    base : BaseModel
        The model that the design is attached to.
    handle : TunedModel
        The design as `sdpet.methods.build` returned it; its parameters are trained.
    task : Task
        Makes the batches and computes the loss.
    seed : int
        Seed of data order, noise and timesteps.
    on_step : callable, optional
        Called as ``on_step(step, loss)`` after each step; steps count from 1.
    **options
        The parameters of `TrainConfig`; steps and lr must be given.

    Returns
    -------
    FitResult
        Losses, time and memory. A loss that is not finite ends training with diverged=True, before it changes the
        weights.

    Raises
    ------
    ValueError
        An option is invalid. One sentence names it and the valid choices.
    """
    return fit_together(base, [Member(handle, seed, TrainConfig(**options), on_step)], task)[0]


def fit_together(
    base: BaseModel,
    members: Sequence[Member],
    task: Task,
    fleet: FleetMembers | None = None,
    save: SaveCallback | None = None,
    rank: Rank | None = None,
    validate: ValidateCallback | None = None,
    lightning: LightningParts | None = None,
) -> list[FitResult]:
    """Train a fleet with one forward pass of the UNet per step. Each member gives the result of training alone.

    Parameters
    ----------
    base : BaseModel
        The model that the designs are attached to.
    members : sequence of Member
        The runs to train.
    task : Task
        Makes the batches and computes the loss.
    fleet : FleetMembers, optional
        The fleet that `sdpet.methods.build_fleet` returned; None for a single run.
    save : callable, optional
        Called as ``save(step, state)`` after each step; ``state(i)`` returns the state from which member i can resume.
    rank : Rank, optional
        The rank of this process, if several processes train one run. Each takes its share of every batch, and the
        gradients are summed. All end with the weights of training in one process, within rounding.
    validate : callable, optional
        Called as ``validate(step, active)`` every `validate_every` steps. ``active`` has the indices of the active
        members in the order of their rows. The model is then as it would be if training ended at this step. The
        function must not use global random generators.
    lightning : LightningParts, optional
        Callbacks, profiler and strategy of Lightning.

    Returns
    -------
    list of FitResult
        One for each member. A member whose loss is not finite is removed with diverged=True; the others continue.

    Raises
    ------
    ValueError
        The members do not begin at the same step, or differ in an option that a fleet shares (steps, precision,
        accumulate, grad_checkpointing, compile, validate_every, deterministic, tf32), or an option is not possible in
        a fleet.
    """
    first = members[0].config
    start_at, steps = _check_members(members, fleet)
    lightning = lightning or LightningParts()
    epochs = _epochs(start_at, steps, first.validate_every if lightning.callbacks else None)
    module = TrainingModule(
        base, members, fleet or SingleRun(), task, save, rank, validate, epochs, lightning.callbacks
    )
    memory = PeakMemory(base.device)
    before_training = [_some_weights(member) for member in members]
    start = time.perf_counter()
    same_bits = numerics(base.device, first.deterministic, first.tf32)
    with _quiet(), _ctrl_c_passes(), _process_group_ended(rank), _prepared(base.unet, first), same_bits:
        trainer = Trainer(
            accelerator="cpu" if base.device.type == "cpu" else "gpu",
            **_device_arguments(base, rank, lightning),
            **lightning.arguments(ForwardedMetrics(module.tell, start_at)),
            precision=first.precision,  # type: ignore[arg-type]
            max_epochs=len(epochs),  # of steps; Lightning's max_steps would count those of every optimiser
            reload_dataloaders_every_n_epochs=1,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
        )
        if start_at < steps:
            trainer.fit(module)
    module.apply_ema()
    if first.compile and start_at < len(module.times[0]):
        _say_cost(module, start_at)
    seconds, peak = time.perf_counter() - start - module.validation_seconds, memory.peak()
    before = [sum((member.state or {"times": []})["times"]) for member in members]
    spent = [sum(times) - done for times, done in zip(module.times, before, strict=True)]
    return [
        FitResult(
            loss=module.losses[i],
            seconds=before[i] + seconds * spent[i] / (sum(spent) or 1),
            seconds_per_step=statistics.median(module.times[i]),
            peak_memory_bytes=peak,
            diverged=module.diverged[i],
            moved=start_at > 0 or _have_moved(before_training[i], _some_weights(members[i])),
        )
        for i in range(len(members))
    ]


def _say_cost(module: TrainingModule, start_at: int) -> None:
    """Log how long the first step took, which compiles, beside the others."""
    times = [len(module.members) * seconds for seconds in module.times[0][start_at:]]
    logging.getLogger("sdpet").info(
        f"Compiled: the first step took {times[0]:.1f} s, half of all steps at most {statistics.median(times):.3f} s."
    )


def _epochs(start_at: int, steps: int, every: int | None) -> list[range]:
    """The steps of each epoch. Callbacks that act at the end of an epoch do so every `every` steps."""
    ends = [*range(every * (start_at // every + 1), steps, every), steps] if every else [steps]
    return [range(a, b) for a, b in zip([start_at, *ends], ends, strict=False)]


def _some_weights(member: Member) -> list[torch.Tensor]:
    """Copies of the first numbers of each trained tensor."""
    return [p.detach().flatten()[:_LOOKED_AT].clone() for p in member.handle.parameters()]


def _have_moved(before: Sequence[torch.Tensor], after: Sequence[torch.Tensor]) -> bool:
    """Whether training changed any of these numbers by more than nothing."""
    return any(bool(((b - a).abs() > _NOTHING).any()) for a, b in zip(before, after, strict=True))


def _check_members(members: Sequence[Member], fleet: FleetMembers | None) -> tuple[int, int]:
    """The first step and the number of steps; ValueError if the members cannot be trained together."""
    start_at = _equal("steps already done", [(member.state or {"step": 0})["step"] for member in members])
    steps = _equal("steps", [member.config.steps for member in members])
    shared = ("precision", "accumulate", "grad_checkpointing", "compile", "validate_every", "deterministic", "tf32")
    for name in shared:
        _equal(name, [getattr(member.config, name) for member in members])
    if len(members) == 1:
        return start_at, steps
    if any(member.config.optimizer == "adamw8bit" for member in members):
        raise ValueError("adamw8bit keeps one state per tensor, but a fleet has one vector per member; train it alone.")
    if fleet is None:
        raise ValueError(f"{len(members)} members need `fleet`, the fleet that their adapters belong to.")
    if members[0].config.precision == "16-mixed":
        raise ValueError(
            "16-mixed shares one loss scale and cannot be trained in a fleet; choose 32-true or bf16-mixed."
        )
    return start_at, steps


def _device_arguments(base: BaseModel, rank: Rank | None, lightning: LightningParts) -> dict[str, Any]:
    """The Trainer's arguments for devices and ranks.

    The environment is set explicitly, because inside a Slurm job Lightning would treat every process as a rank.
    """
    if rank is None:
        devices = 1 if base.device.index is None else [base.device.index]
        return {"devices": devices, "plugins": [LightningEnvironment()]}
    backend = "gloo" if base.device.type == "cpu" else "nccl"
    ddp = lightning.strategy(cluster_environment=_RankEnvironment(rank), process_group_backend=backend, timeout=TIMEOUT)
    return {"devices": rank.per_node, "num_nodes": rank.nodes, "strategy": ddp}


class _RankEnvironment(LightningEnvironment):
    """The rank of this process, for Lightning; all processes have been started already."""

    def __init__(self, rank: Rank) -> None:
        super().__init__()
        self._rank = rank

    @property
    def creates_processes_externally(self) -> bool:
        return True

    @property
    def main_address(self) -> str:
        return self._rank.address

    @property
    def main_port(self) -> int:
        return self._rank.port

    def local_rank(self) -> int:
        return self._rank.local

    def node_rank(self) -> int:
        return self._rank.rank // self._rank.per_node


@contextlib.contextmanager
def _process_group_ended(rank: Rank | None) -> Iterator[None]:
    """Tear down the process group and restore the environment, because the next run may use another address."""
    # torchrun sets this variable, because it serves a store at its own address. There is none at the address of a run.
    served = "TORCHELASTIC_USE_AGENT_STORE"
    names = ("MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", served)  # Lightning sets and removes the others
    before = {name: os.environ.get(name) for name in names}
    if rank is not None:
        os.environ.pop(served, None)
    try:
        yield
    finally:
        if rank is not None:
            if torch.distributed.is_initialized():
                torch.distributed.destroy_process_group()
            for name, value in before.items():
                os.environ.pop(name, None)
                if value is not None:
                    os.environ[name] = value


def _equal(what: str, values: Sequence[Any]) -> Any:
    if len(set(values)) > 1:
        raise ValueError(f"Members of a fleet must have equal {what}, not {', '.join(map(str, sorted(set(values))))}.")
    return values[0]


@contextlib.contextmanager
def _prepared(unet: Any, config: TrainConfig) -> Iterator[None]:
    """Switch on gradient checkpointing and compilation as the options say; switch them off afterwards."""
    checkpointing = config.grad_checkpointing and not unet.is_gradient_checkpointing
    if checkpointing:
        unet.enable_gradient_checkpointing()
    try:
        with compiled(unet, config.compile == "graphs") if config.compile else contextlib.nullcontext():
            yield
    finally:
        if checkpointing:
            unet.disable_gradient_checkpointing()


@contextlib.contextmanager
def _ctrl_c_passes() -> Iterator[None]:
    """Raise KeyboardInterrupt on Ctrl-C, which Lightning turns into SystemExit."""
    try:
        yield
    except SystemExit as stop:
        if not isinstance(stop.__context__, KeyboardInterrupt):
            raise
        raise KeyboardInterrupt from None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence Lightning's messages about hardware and about files it does not write."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning")
            # The gradients of a fleet's members are rows of a matrix.
            warnings.filterwarnings("ignore", "grad and param do not obey the gradient layout")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
