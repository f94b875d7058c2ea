"""The training of a fleet as a LightningModule; a run trained alone is a fleet of one."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from datetime import timedelta
from typing import Any

import torch
import torch.distributed
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.core.optimizer import LightningOptimizer

from sdpet.adapters.compiled import uncompiled
from sdpet.models import BaseModel
from sdpet.tasks import Batch, Task, concat_batches
from sdpet.training.lightning_parts import kept_states, restore_states
from sdpet.training.member_optimizers import MemberOptimizers
from sdpet.training.members import FleetMembers, Member
from sdpet.training.rank import Rank
from sdpet.training.readback import Reading
from sdpet.training.step_metrics import StepMetrics, named_metrics, stored_norms, total_norm

SaveCallback = Callable[[int, Callable[[int], dict[str, Any]]], None]
ValidateCallback = Callable[[int, list[int]], None]

LONGEST_VALIDATION = timedelta(days=1)  # that ranks wait for rank 0


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
    epochs : sequence of range
        The steps of each epoch, counted from 0.
    callbacks : sequence of Callback
        The user's, which see losses, learning rates and gradient norms.
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
        epochs: Sequence[range] = (),
        callbacks: Sequence[Callback] = (),
    ):
        super().__init__()
        self.automatic_optimization = False
        self.base, self.members, self.fleet, self.task = base, members, fleet, task
        self._save, self._rank, self._validate = save, rank, validate
        self._epochs, self._callbacks = epochs, callbacks
        self._text_is_learned = any(member.handle.learns_text for member in members)
        states = [member.state or {} for member in members]
        self.losses: list[list[float]] = [list(state.get("loss", [])) for state in states]
        self.times: list[list[float]] = [list(state.get("times", [])) for state in states]
        self.norms = [stored_norms(state) for state in states]
        self._patient: torch.distributed.ProcessGroup | None = None  # of ranks that wait for a validation
        self._told = any(member.on_metrics is not None for member in members)  # norms are computed if anyone asks
        self._untold: StepMetrics | None = None  # its gradient norms may not have been computed yet
        self.diverged = [False] * len(members)
        self.validation_seconds = 0.0
        self._optimizers = MemberOptimizers(members, fleet)
        if rank is not None:  # DDP averages the gradients of the parameters that it finds in the module
            self.trained = torch.nn.ParameterList(members[0].handle.parameters())

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """The optimisers of the members. Frozen weights have requires_grad=False and are in none of them."""
        return [optimizer for optimizer, _ in self._optimizers.groups]

    def train_dataloader(self) -> range:
        """The steps of the present epoch."""
        return self._epochs[self.trainer.current_epoch]

    def on_fit_start(self) -> None:
        """Restore the loss scale and the callbacks of a run that was interrupted, and set the first learning rates."""
        state = self.members[0].state
        if state is not None and state.get("precision"):
            self.trainer.precision_plugin.load_state_dict(state["precision"])
        restore_states(self._callbacks, (state or {}).get("callbacks") or {})
        self._set_rates(self._epochs[0].start)
        if self._rank is not None and self.members[0].config.validate_every is not None:
            made: Any = torch.distributed.new_group(backend="gloo", timeout=LONGEST_VALIDATION)
            self._patient = made

    def on_train_end(self) -> None:
        """Let go of the weights, as Lightning next moves all that the module holds to the CPU."""
        if self._rank is not None:
            del self.trained

    def on_fit_end(self) -> None:
        """Tell the last gradient norms."""
        self._tell_norms()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Put the members' states into a checkpoint of Lightning's: weights, optimisers and averages."""
        checkpoint["members"] = {i: self.state(i) for i in self.fleet.active}

    def training_step(self, step: int) -> None:
        """Do one step of all active members; steps count from 0."""
        start = time.perf_counter()
        active = list(self.fleet.active)
        readings = []
        parts = self.members[0].config.accumulate
        for part in range(parts):
            # Each member's batch is a function of its seed and the step; together they are one batch of the UNet.
            batches = self._batches([self.members[i].seed for i in active], step * parts + part)
            batch = concat_batches(batches)
            text = self.base.encode_text(batch.prompts) if self._text_is_learned else batch.text
            if self.members[0].config.compile == "graphs":
                torch.compiler.cudagraph_mark_step_begin()
            prediction = self.base.predict(batch.noisy, batch.timesteps, text)  # (B, C, h, w)
            partial = self._losses(prediction, batches) / parts  # (members,), each member's on its own rows
            readings.append(Reading(self._over_ranks(partial)))
            total = partial.sum()
            self.manual_backward(total if self._rank is None else total * self._rank.world)  # DDP gives the mean
        # The one time in a step that the host waits, and for the losses only: a GPU is still busy with the gradients.
        losses = [sum(own) for own in zip(*(reading.values() for reading in readings), strict=True)]
        # A loss that is not finite is kept from the weights; its gradients are those of its member alone.
        self._remove_diverged(active, losses)
        norms: dict[int, torch.Tensor] = {}
        for number, (_, owners) in enumerate(self._optimizers.groups):
            if updated := [i for i in owners if i in self.fleet.active]:
                norms |= zip(updated, self._optimizer_step(number, updated), strict=False)
        seconds = (time.perf_counter() - start) / len(active)
        for i in active:
            self.times[i].append(seconds)
        self._report(StepMetrics(step + 1, dict(zip(active, losses, strict=True)), self._rates(active, step), norms))
        self._set_rates(step + 1)
        if not self.fleet.active:
            self.trainer.should_stop = True

    def _losses(self, prediction: torch.Tensor, batches: Sequence[Batch]) -> torch.Tensor:
        """The losses (members,) of the members on their rows of the prediction (B, C, h, w)."""
        shares = prediction.split([len(own.noisy) for own in batches])
        return torch.stack([self.task.loss(share, own) for share, own in zip(shares, batches, strict=True)])

    def _remove_diverged(self, active: Sequence[int], losses: Sequence[float]) -> None:
        """Store the losses of a step, and remove members whose loss is not finite."""
        for i, loss in zip(active, losses, strict=True):
            self.losses[i].append(loss)
            if not math.isfinite(loss):
                self.diverged[i] = True
                self.fleet.remove(i)

    def _report(self, done: StepMetrics) -> None:
        """Tell a step to whoever asked: losses, rates and gradient norms, checkpoint, validation."""
        for i, loss in done.losses.items():
            if (on_step := self.members[i].on_step) is not None:
                on_step(done.number, loss)
        if self._callbacks:
            self._log(done)
        self._tell_norms()
        self._untold = done
        if done.is_ready:
            self._tell_norms()
        if self._save is not None:
            self._save(done.number, self.state)
        every = self.members[0].config.validate_every
        if every is None or done.number % every or not self.fleet.active:
            return
        if self._validate is not None:
            self._validate_now(self._validate, done.number)
        if self._patient is not None:  # the other ranks wait here, and not in the next step, where NCCL ends the wait
            torch.distributed.barrier(self._patient)

    def _tell_norms(self) -> None:
        """Tell the metrics of the last step that were not told yet."""
        if (step := self._untold) is None:
            return
        self._untold = None
        norms = step.read_norms()
        for i, loss in step.losses.items():
            norm = norms.get(i, math.nan)
            self.norms[i].append(norm)
            if (on_metrics := self.members[i].on_metrics) is not None:
                on_metrics(step.number, named_metrics(loss, step.rates[i], norm))

    def tell(self, step: int, metrics: Mapping[str, float]) -> None:
        """Tell the logs of all active members what a callback of Lightning logs."""
        for i in self.fleet.active:
            if (on_metrics := self.members[i].on_metrics) is not None:
                on_metrics(step, dict(metrics))

    def _log(self, done: StepMetrics) -> None:
        """Give losses, learning rates and gradient norms to callbacks, such as EarlyStopping(monitor="loss")."""
        for i, loss in done.losses.items():
            suffix = "" if len(self.members) == 1 else f"/{i}"
            values = {"loss": loss, "lr": done.rates[i]} | ({"grad_norm": done.norms[i]} if i in done.norms else {})
            for name, value in values.items():
                self.log(name + suffix, value, on_step=True, on_epoch=True, logger=False, batch_size=1)

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
        self._tell_norms()
        member, ema = self.members[i], self._optimizers.ema[i]
        callbacks = kept_states(self._callbacks)
        return {
            "step": len(self.losses[i]),
            "parameters": [parameter.detach().cpu().clone() for parameter in member.handle.parameters()],
            "optimizer": self._optimizers.state(i),
            "loss": list(self.losses[i]),
            "times": list(self.times[i]),
            "norms": list(self.norms[i]),  # of the gradients; nan where nobody asked
            "precision": self.trainer.precision_plugin.state_dict(),  # the loss scale of 16-mixed
            **({"average": ema.state()} if ema is not None else {}),
            **({"callbacks": callbacks} if callbacks else {}),
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
        return replace(batch, **{field.name: getattr(batch, field.name)[rows] for field in fields(batch)})

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

    def _rates(self, active: Sequence[int], step: int) -> dict[int, float]:
        return {i: self.members[i].config.lr_at(step) for i in active}

    def _set_rates(self, step: int) -> None:
        """Set the learning rates of a step ahead of it, so that monitors of Lightning see those that will be used."""
        for optimizer, owners in self._optimizers.groups:
            config = self.members[owners[0]].config  # equal for all of them
            if step < config.steps:
                for group in optimizer.param_groups:
                    group["lr"] = config.lr_at(step)

    def _optimizer_step(self, number: int, owners: Sequence[int]) -> list[torch.Tensor]:
        """Do a step of one optimiser for its active members; return the norms of their gradients, if they are asked."""
        found: Any = self.optimizers()
        optimizer: LightningOptimizer = found[number] if isinstance(found, list) else found
        vectors = [vector for i in owners if (vector := self.fleet.vector(i)) is not None]
        apart = [[vector] for vector in vectors]  # each member's norm is its own
        every = apart or [[p for group in optimizer.param_groups for p in group["params"]]]
        norms = self._clip(every, self.members[owners[0]].config.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=not vectors)
        for i in owners:
            if (ema := self._optimizers.ema[i]) is not None:
                ema.update()
        return norms

    def _clip(self, every: Sequence[Sequence[torch.Tensor]], clip: float | None) -> list[torch.Tensor]:
        """Clip gradients; return their norms before that. All stays on the device, so that the host need not wait.

        Lightning's clip_gradients refuses fused optimisers, and clips gradients that still have the loss scale.
        """
        if clip is None and not (self._told or self._callbacks):
            return []
        gradients = [[weight.grad for weight in weights if weight.grad is not None] for weights in every]
        norms = [total_norm(own) if clip is None else torch.nn.utils.get_total_norm(own) for own in gradients]
        if (scaler := getattr(self.trainer.precision_plugin, "scaler", None)) is not None:
            scale = scaler.scale(torch.ones((), device=self.base.device))  # `get_scale` would wait for the device
            norms = [norm / scale for norm in norms]
        if clip is not None:
            for weights, norm in zip(every, norms, strict=True):
                torch.nn.utils.clip_grads_with_norm_(weights, clip, norm)
        return norms
