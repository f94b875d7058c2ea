"""The training of a fleet as a LightningModule; a run trained alone is a fleet of one."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from typing import Any

import torch
import torch.distributed
from lightning.pytorch import LightningModule
from lightning.pytorch.core.optimizer import LightningOptimizer

from sdpet.methods import EmbeddingTuning
from sdpet.models import BaseModel
from sdpet.tasks import Batch, Task, concat_batches
from sdpet.training.member_optimizers import MemberOptimizers
from sdpet.training.members import FleetMembers, Member
from sdpet.training.rank import Rank

SaveCallback = Callable[[int, Callable[[int], dict[str, Any]]], None]
ValidateCallback = Callable[[int, list[int]], None]


class TrainingModule(LightningModule):
    """Trains all members with one forward pass of the UNet per step. A step depends only on the seed and its number.

    The total loss is the sum of the members' losses. Each weight affects only one of them, so its gradient is the same
    as in training alone. Optimisation is manual, so that an update with a non-finite loss can be skipped.

    Parameters
    ----------
    base : BaseModel
        The frozen model that the members' designs are attached to.
    members : sequence of Member
        The runs to train.
    fleet : FleetMembers
        The active members, and the order of their rows in a batch.
    task : Task
        Makes the batches and computes the loss.
    save, rank, validate
        See `fit_together`.
    """

    def __init__(
        self,
        base: BaseModel,
        members: Sequence[Member],
        fleet: FleetMembers,
        task: Task,
        save: SaveCallback | None = None,
        rank: Rank | None = None,
        validate: ValidateCallback | None = None,
    ):
        super().__init__()
        self.automatic_optimization = False
        self.base, self.members, self.fleet, self.task = base, members, fleet, task
        self._save, self._rank, self._validate = save, rank, validate
        self._text_is_learned = any(isinstance(member.handle, EmbeddingTuning) for member in members)
        states = [member.state or {} for member in members]
        self.losses: list[list[float]] = [list(state.get("loss", [])) for state in states]
        self.times: list[list[float]] = [list(state.get("times", [])) for state in states]
        self.diverged = [False] * len(members)
        self.validation_seconds = 0.0
        self._optimizers = MemberOptimizers(members, fleet)
        if rank is not None:  # DDP averages the gradients of the parameters that it finds in the module
            self.trained = torch.nn.ParameterList(members[0].handle.parameters())

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """The optimisers of the members. Frozen weights have requires_grad=False and are in none of them."""
        return [optimizer for optimizer, _ in self._optimizers.groups]

    def on_fit_start(self) -> None:
        """Restore the loss scale of a run that was interrupted."""
        state = self.members[0].state
        if state is not None and state.get("precision"):
            self.trainer.precision_plugin.load_state_dict(state["precision"])

    def training_step(self, step: int) -> None:
        """Do one step of all active members; steps count from 0."""
        start = time.perf_counter()
        active = list(self.fleet.active)
        losses, finite = [0.0] * len(active), list(range(len(active)))  # finite: positions in `active`
        parts = self.members[0].config.accumulate
        for part in range(parts):
            # Each member's batch is a function of its seed and the step; together they are one batch of the UNet.
            batches = self._batches([self.members[i].seed for i in active], step * parts + part)
            batch = concat_batches(batches)
            text = self.base.encode_text(batch.prompts) if self._text_is_learned else batch.text
            prediction = self.base.predict(batch.noisy, batch.timesteps, text)  # (B, C, h, w)
            # Each member's loss on its own rows; a loss that is not finite is kept from the weights.
            partial = self._losses(prediction, batches) / parts  # (members,)
            losses = [loss + more for loss, more in zip(losses, self._over_ranks(partial).tolist(), strict=True)]
            finite = [place for place in finite if math.isfinite(losses[place])]
            if finite:
                total = partial.sum() if len(finite) == len(losses) else partial[finite].sum()
                self.manual_backward(total if self._rank is None else total * self._rank.world)  # DDP gives the mean
        self._remove_diverged(active, losses, finite)
        for number, (_, owners) in enumerate(self._optimizers.groups):
            if updated := [i for i in owners if i in self.fleet.active]:
                self._optimizer_step(number, updated, step)
        seconds = (time.perf_counter() - start) / len(active)
        for i in active:
            self.times[i].append(seconds)
        self._report(active, losses, step + 1)
        if not self.fleet.active:
            self.trainer.should_stop = True

    def _losses(self, prediction: torch.Tensor, batches: Sequence[Batch]) -> torch.Tensor:
        """The losses (members,) of the members on their rows of the prediction (B, C, h, w)."""
        shares = prediction.split([len(own.noisy) for own in batches])
        return torch.stack([self.task.loss(share, own) for share, own in zip(shares, batches, strict=True)])

    def _remove_diverged(self, active: Sequence[int], losses: Sequence[float], finite: Sequence[int]) -> None:
        """Store the losses of a step, and remove members whose loss is not finite."""
        for place, (i, loss) in enumerate(zip(active, losses, strict=True)):
            self.losses[i].append(loss)
            if place not in finite:
                self.diverged[i] = True
                self.fleet.remove(i)

    def _report(self, active: Sequence[int], losses: Sequence[float], done: int) -> None:
        """Call the callbacks after a step: losses, checkpoint, validation."""
        for i, loss in zip(active, losses, strict=True):
            if (on_step := self.members[i].on_step) is not None:
                on_step(done, loss)
        if self._save is not None:
            self._save(done, self.state)
        every = self.members[0].config.validate_every
        if self._validate is not None and every is not None and done % every == 0 and self.fleet.active:
            self._validate_now(self._validate, done)

    def state(self, i: int) -> dict[str, Any]:
        """The state from which a member can resume after its last step, alone or in any fleet.

        Parameters
        ----------
        i : int
            Index of the member.

        Returns
        -------
        dict
            Tensors on the CPU, numbers and lists, which `torch.load` reads with weights_only=True.
        """
        member, ema = self.members[i], self._optimizers.ema[i]
        return {
            "step": len(self.losses[i]),
            "parameters": [parameter.detach().cpu().clone() for parameter in member.handle.parameters()],
            "optimizer": self._optimizers.state(i),
            "loss": list(self.losses[i]),
            "times": list(self.times[i]),
            "precision": self.trainer.precision_plugin.state_dict(),  # the loss scale of 16-mixed
            **({"average": ema.state()} if ema is not None else {}),
        }

    def apply_ema(self) -> None:
        """Replace the weights of members with an EMA by their averages, at the end of training."""
        for ema in filter(None, self._optimizers.ema):
            ema.copy_to_model()

    @torch.no_grad()
    def _validate_now(self, validate: ValidateCallback, done: int) -> None:
        """Call `validate` with the models as they would be if training ended now."""
        start = time.perf_counter()
        with contextlib.ExitStack() as stack:
            for i in self.fleet.active:
                if (ema := self._optimizers.ema[i]) is not None:
                    stack.enter_context(ema.swapped_in())
            stack.enter_context(uncompiled(self.base.unet))
            stack.enter_context(torch.autocast(self.base.device.type, enabled=False))  # as after training
            validate(done, list(self.fleet.active))
        self.validation_seconds += time.perf_counter() - start

    def _local_shard(self, batch: Batch) -> Batch:
        """The images of a batch that this process trains on: every `world`-th, so each has subject and class images."""
        if self._rank is None:
            return batch
        rows = slice(self._rank.rank, None, self._rank.world)
        return Batch(*(getattr(batch, field.name)[rows] for field in fields(Batch)))

    def _over_ranks(self, losses: torch.Tensor) -> torch.Tensor:
        """Sum the losses (members,) over all processes; a loss is a weighted sum over images."""
        total = losses.detach().clone()
        if self._rank is not None:
            torch.distributed.all_reduce(total)
        return total

    def _batches(self, seeds: Sequence[int], number: int) -> list[Batch]:
        """This process's share of each member's batch. Members of one seed share data and noise, made once a seed."""
        made = {seed: self._local_shard(self.task.batch(seed, number)) for seed in dict.fromkeys(seeds)}
        return [made[seed] for seed in seeds]

    def _optimizer_step(self, number: int, owners: Sequence[int], step: int) -> None:
        """Do a step of one optimiser for its active members."""
        found: Any = self.optimizers()
        optimizer: LightningOptimizer = found[number] if isinstance(found, list) else found
        config = self.members[owners[0]].config  # equal for all of them
        vectors = [vector for i in owners if (vector := self.fleet.vector(i)) is not None]
        for group in optimizer.param_groups:
            group["lr"] = config.lr_at(step)
        if config.clip is not None:
            # Lightning's clip_gradients refuses fused optimisers, and clips gradients that still have the loss scale.
            scaler = getattr(self.trainer.precision_plugin, "scaler", None)
            most = config.clip * (1.0 if scaler is None else scaler.get_scale())
            apart = [[vector] for vector in vectors]  # each member's norm is its own
            for weights in apart or [[p for group in optimizer.param_groups for p in group["params"]]]:
                torch.nn.utils.clip_grad_norm_(weights, most)
        optimizer.step()
        optimizer.zero_grad(set_to_none=not vectors)
        for i in owners:
            if (ema := self._optimizers.ema[i]) is not None:
                ema.update()


@contextlib.contextmanager
def uncompiled(unet: torch.nn.Module) -> Iterator[None]:
    """Turn torch.compile off for the UNet inside the block, since compiling it for other shapes takes long."""
    compiled, unet._compiled_call_impl = unet._compiled_call_impl, None
    try:
        yield
    finally:
        unet._compiled_call_impl = compiled
