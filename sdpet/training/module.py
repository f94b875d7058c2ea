"""The training loop of a fleet as Lightning sees it; a run trained alone is a fleet of one."""

from __future__ import annotations

import contextlib
import copy
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Protocol

import torch
import torch.distributed
from lightning.pytorch import LightningModule
from lightning.pytorch.core.optimizer import LightningOptimizer

from sdpet.methods import EmbeddingTuning, Handle
from sdpet.models.base import BaseModel
from sdpet.tasks import Task
from sdpet.tasks.batch import Batch, concatenated
from sdpet.training.optim import Average, make_optimizer

if TYPE_CHECKING:
    from sdpet.training.config import TrainConfig
    from sdpet.training.rank import Rank


@dataclass
class Member:
    """One run of a fleet: what is trained, its seed and options; on_step(step, loss) counts steps from 1.

    state: what `Loop.state` gave for it when it was left unfinished, or None to begin at step 0.
    """

    handle: Handle
    seed: int
    config: TrainConfig
    on_step: Callable[[int, float], None] | None = None
    state: dict[str, Any] | None = None


class Crew(Protocol):
    """Who shares the batch (sdpet.adapters.fleet.Fleet): numbers of the members in order of their rows.

    vector: all weights of a member as one vector, the gradient of which must stay in its place; None where there is
    none, and the weights are as many tensors as the handle says.
    """

    @property
    def aboard(self) -> list[int]: ...
    def leave(self, index: int) -> None: ...
    def vector(self, index: int) -> torch.Tensor | None: ...


class Alone:
    """The crew of a run that has the UNet to itself."""

    def __init__(self) -> None:
        self.aboard = [0]

    def leave(self, index: int) -> None:
        self.aboard.remove(index)

    def vector(self, index: int) -> None:
        return None


class Loop(LightningModule):
    """A step is a function of its number: batch, loss and AdamW of each member, on one pass of the UNet.

    The loss that is differentiated is the sum of the members' own, and each weight is in one of them, so gradients are
    those of training alone. The optimisation is manual, so that a step that is not finite can be refused. The base,
    parameters and task are kept from Lightning's sight (in a tuple), as it would walk, move and switch modes of the
    whole frozen model.
    """

    def __init__(
        self,
        base: BaseModel,
        members: Sequence[Member],
        crew: Crew,
        task: Task,
        save: Callable[[int, Callable[[int], dict[str, Any]]], None] | None = None,
        rank: Rank | None = None,
        validate: Callable[[int, list[int]], None] | None = None,
    ):
        super().__init__()
        self.automatic_optimization = False
        self._held = (base, members, crew, task)
        self._save, self._rank, self._validate = save, rank, validate
        self.seconds_apart = 0.0  # spent on validation
        self._text_is_learned = any(isinstance(member.handle, EmbeddingTuning) for member in members)
        states = [member.state or {} for member in members]
        self.losses: list[list[float]] = [list(state.get("loss", [])) for state in states]
        self.times: list[list[float]] = [list(state.get("times", [])) for state in states]
        self.diverged = [False] * len(members)
        self._resume()
        if rank is not None:  # what Lightning's DDP is to average: then it must see it
            self.trained = torch.nn.ParameterList(members[0].handle.parameters())

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """One optimiser a member, as if alone, or one for members of equal options whose weights are vectors each (its
        steps are elementwise); frozen weights have requires_grad False and no gradient."""
        return [optimizer for optimizer, _ in self._optimized]

    def on_fit_start(self) -> None:
        state = self._held[1][0].state
        if state is not None and state.get("precision"):
            self.trainer.precision_plugin.load_state_dict(state["precision"])

    def training_step(self, step: int) -> None:
        start = time.perf_counter()
        _, members, crew, _ = self._held
        aboard = list(crew.aboard)
        values, finite = [0.0] * len(aboard), list(range(len(aboard)))
        parts = members[0].config.accumulate
        for part in range(parts):  # of the step's batch, one after another; their gradients add up
            losses = self._losses(aboard, step * parts + part) / parts
            values = [v + more for v, more in zip(values, self._over_ranks(losses).tolist(), strict=True)]
            finite = [place for place in finite if math.isfinite(values[place])]
            if finite:
                total = losses.sum() if len(finite) == len(values) else losses[finite].sum()
                self.manual_backward(total if self._rank is None else total * self._rank.world)  # DDP gives the mean
        for place, (i, value) in enumerate(zip(aboard, values, strict=True)):
            self.losses[i].append(value)
            if place not in finite:
                self.diverged[i] = True
                crew.leave(i)
        for number, (_, owners) in enumerate(self._optimized):
            if going := [i for i in owners if i in crew.aboard]:
                self._descend(number, going, step)
        seconds = (time.perf_counter() - start) / len(aboard)
        for i in aboard:
            self.times[i].append(seconds)
        for i, value in zip(aboard, values, strict=True):
            if (report := members[i].on_step) is not None:
                report(step + 1, value)
        if self._save is not None:
            self._save(step + 1, self.state)
        every = members[0].config.validate_every
        if self._validate is not None and every is not None and (step + 1) % every == 0 and crew.aboard:
            self._look(step + 1)
        if not crew.aboard:
            self.trainer.should_stop = True

    def state(self, i: int) -> dict[str, Any]:
        """All that a member needs to go on after the step it has done, alone or in any fleet."""
        member = self._held[1][i]
        return {
            "step": len(self.losses[i]),
            "parameters": [parameter.detach().cpu().clone() for parameter in member.handle.parameters()],
            "optimizer": self._optimizer_state(i),
            "loss": list(self.losses[i]),
            "times": list(self.times[i]),
            "precision": self.trainer.precision_plugin.state_dict(),  # the scale of the loss, where there is one
            **({"average": average.state()} if (average := self._averages[i]) is not None else {}),
        }

    def put_averages(self) -> None:
        """Where weights were averaged, the averages take their place; for the end of training."""
        for average in filter(None, self._averages):
            average.put()

    def _losses(self, aboard: Sequence[int], number: int) -> torch.Tensor:
        """The members' losses (members,) on the batch of that number."""
        base, members, _, task = self._held
        batches = [self._share(batch) for batch in self._batches([members[i].seed for i in aboard], number)]
        batch = concatenated(batches)
        text = base.encode_text(batch.prompts) if self._text_is_learned else batch.text
        prediction = base.predict(batch.noisy, batch.timesteps, text)
        shares = prediction.split([len(own.noisy) for own in batches])
        return torch.stack([task.loss(share, own) for share, own in zip(shares, batches, strict=True)])

    @torch.no_grad()
    def _look(self, step: int) -> None:
        """Let `validate` draw from the models as they would be now if training ended."""
        assert self._validate is not None
        base, _, crew, _ = self._held
        start = time.perf_counter()
        with contextlib.ExitStack() as stack:
            for i in crew.aboard:
                if (average := self._averages[i]) is not None:
                    stack.enter_context(average.in_place())
            stack.enter_context(uncompiled(base.unet))
            stack.enter_context(torch.autocast(base.device.type, enabled=False))  # as after training
            self._validate(step, list(crew.aboard))
        self.seconds_apart += time.perf_counter() - start

    def _share(self, batch: Batch) -> Batch:
        """This process's images of a batch: every `world`-th, so that images of subject and class go to each."""
        if self._rank is None:
            return batch
        mine = slice(self._rank.rank, None, self._rank.world)
        return Batch(*(getattr(batch, field.name)[mine] for field in fields(Batch)))

    def _over_ranks(self, losses: torch.Tensor) -> torch.Tensor:
        """The losses (members,) of whole batches: a loss is a weighted sum over images."""
        total = losses.detach().clone()
        if self._rank is not None:
            torch.distributed.all_reduce(total)
        return total

    def _batches(self, seeds: Sequence[int], step: int) -> list[Batch]:
        """Members of one seed see the same data and noise; it is made once."""
        made: dict[int, Batch] = {}
        for seed in seeds:
            if seed not in made:
                made[seed] = self._held[3].batch(seed, step)
        return [made[seed] for seed in seeds]

    def _descend(self, number: int, owners: Sequence[int], step: int) -> None:
        """A step of one optimiser, for the members whose weights it has and that are aboard."""
        found: Any = self.optimizers()
        optimizer: LightningOptimizer = found[number] if isinstance(found, list) else found
        config = self._held[1][owners[0]].config  # equal for all of them
        vectors = [vector for i in owners if (vector := self._held[2].vector(i)) is not None]
        for group in optimizer.param_groups:
            group["lr"] = config.lr_at(step)
        if config.clip is not None and not vectors:
            self.clip_gradients(optimizer.optimizer, config.clip, "norm")
        elif config.clip is not None:
            for vector in vectors:
                torch.nn.utils.clip_grad_norm_(vector, config.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=not vectors)
        for i in owners:
            if (average := self._averages[i]) is not None:
                average.update()

    @torch.no_grad()
    def _resume(self) -> None:
        """Make the optimisers; give members that were left unfinished their weights and optimisers' state back."""
        _, members, crew, _ = self._held
        together: dict[Any, list[int]] = {}
        for i, member in enumerate(members):
            together.setdefault(i if crew.vector(i) is None else member.config, []).append(i)
        self._optimized: list[tuple[torch.optim.Optimizer, list[int]]] = []
        self._averages: list[Average | None] = [None] * len(members)
        for owners in together.values():
            config = members[owners[0]].config
            vectors = [vector for i in owners if (vector := crew.vector(i)) is not None]
            optimizer = make_optimizer(config, vectors or list(members[owners[0]].handle.parameters()))
            self._optimized.append((optimizer, owners))
            for i in owners:
                self._restore(optimizer, i)

    def _restore(self, optimizer: torch.optim.Optimizer, i: int) -> None:
        member, vector = self._held[1][i], self._held[2].vector(i)
        parameters = list(member.handle.parameters())
        if member.config.ema is not None:
            self._averages[i] = Average(parameters, member.config.ema, (member.state or {}).get("average"))
        if member.state is None:
            return
        for parameter, value in zip(parameters, member.state["parameters"], strict=True):
            parameter.copy_(value)
        state = copy.deepcopy(member.state["optimizer"])  # it may be kept
        if vector is None:
            optimizer.load_state_dict(state)
        else:
            optimizer.state[vector] = {key: value.to(vector.device) for key, value in _joined(state["state"]).items()}

    def _optimizer_state(self, i: int) -> dict[str, Any]:
        """A copy, by the parameters of the handle, also where the optimiser knows them as one vector."""
        optimizer = next(optimizer for optimizer, owners in self._optimized if i in owners)
        vector = self._held[2].vector(i)
        if vector is None:
            return copy.deepcopy(optimizer.state_dict())
        shapes = [parameter.shape for parameter in self._held[1][i].handle.parameters()]
        group = {**optimizer.state_dict()["param_groups"][0], "params": list(range(len(shapes)))}
        return {"state": _parted(optimizer.state[vector], shapes), "param_groups": [group]}


def _parted(state: dict[str, torch.Tensor], shapes: Sequence[torch.Size]) -> dict[int, dict[str, torch.Tensor]]:
    """An optimiser's state of one vector as that of the tensors which the vector consists of."""
    parts = {}
    split = {key: value.split([shape.numel() for shape in shapes]) for key, value in state.items() if value.dim()}
    for j, shape in enumerate(shapes):
        counts = {key: value.clone() for key, value in state.items() if not value.dim()}
        parts[j] = counts | {key: values[j].reshape(shape).clone() for key, values in split.items()}
    return parts


def _joined(parts: dict[int, dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """The inverse of `_parted`."""
    return {
        key: torch.cat([part[key].flatten() for part in parts.values()]) if value.dim() else value
        for key, value in parts[0].items()
    }


@contextlib.contextmanager
def uncompiled(unet: torch.nn.Module) -> Iterator[None]:
    """The UNet as it was written, for the duration of the block; compiling it for other shapes takes long."""
    compiled, unet._compiled_call_impl = unet._compiled_call_impl, None
    try:
        yield
    finally:
        unet._compiled_call_impl = compiled
