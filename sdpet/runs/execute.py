"""The steps of a run: load, attach, train, sample, score, record. All runs of a fleet take each step together."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdpet.choices import FILE_METHOD
from sdpet.config import RunConfig, settings_of
from sdpet.runs.checkpoint import CheckpointSaver
from sdpet.runs.distributed import rank_group
from sdpet.runs.libraries import torch_threads
from sdpet.runs.loggers.choose import open_log, tell_state
from sdpet.runs.record import Record, bin_loss, factors
from sdpet.runs.reference_scores import floor_folder, reference_scores
from sdpet.runs.setup import (
    ProgressCallback,
    Resources,
    make_design,
    make_lightning_parts,
    make_plan,
    make_sampler,
    make_train_config,
)

if TYPE_CHECKING:
    from sdpet.methods import Design, TunedModel
    from sdpet.models import BaseModel
    from sdpet.runs.loggers.base import NoLog
    from sdpet.scoring import Evaluation, Scorers
    from sdpet.tasks import Task
    from sdpet.training import FitResult, FleetMembers, LightningParts, Member, Validation

LOG = logging.getLogger("sdpet")


@dataclass(frozen=True)
class PreparedRun:
    """A run whose folder is ready. `state` is the checkpoint to resume from, or None to begin at step 0."""

    config: RunConfig
    folder: Path
    state: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class _Loaded:
    """Model, task and scorers, which the runs of a fleet share."""

    base: BaseModel
    task: Task
    scorers: Scorers


@dataclass(frozen=True)
class _Attached:
    """The designs of the runs, attached to the base model; `fleet` is a `SingleRun` for a run that is trained alone."""

    designs: Sequence[Design]
    handles: Sequence[TunedModel]
    fleet: FleetMembers


def train_and_score(
    runs: Sequence[PreparedRun], resources: Resources, progress: ProgressCallback | None = None
) -> list[Record]:
    """Train, sample and score the runs of one fleet, step by step.

    Parameters
    ----------
    runs : sequence of PreparedRun
        Runs with equal `fleet_key`, all at the same step.
    resources : Resources
        Models, data and scorers that the runs of this process share.
    progress : callable, optional
        Called as ``progress("train", step, steps, loss)`` and ``progress("sample", done, total)``.

    Returns
    -------
    list of Record
        One for each run, with status "finished" or "diverged". They are not written yet; all other results are in the
        run folders.
    """
    from sdpet.methods import build
    from sdpet.training import FitResult, fit_together, numerics

    config = runs[0].config
    with torch_threads(config.trainer.threads), ExitStack() as stack:
        stack.enter_context(numerics(config.trainer.device, config.trainer.deterministic, config.trainer.tf32))
        # Load the base model, the data and the scorers. They are kept for the next fleet.
        base = resources.base(config)
        if config.adapter.method == FILE_METHOD:  # whether the file fits the model is known before any long work
            build(base, make_design(config, base)).detach()
        loaded = _Loaded(base, resources.task(config, progress), resources.scorers(config))
        # Score the untuned model (floor) and real images (ceiling), once for all runs that share them.
        references = [reference_scores(run.config, resources, floor_folder(run.config.seed)) for run in runs]
        started = time.perf_counter()
        # Attach every run's design to the base model.
        attached = stack.enter_context(_attach(loaded.base, runs))
        logs = [stack.enter_context(open_log(run.config, run.folder)) for run in runs]
        # Train all designs, with one forward pass of the UNet per step. A file of another tool stays as it is.
        if config.trainer.steps == 0:
            results = [FitResult([], 0.0, 0.0, 0, diverged=False) for _ in runs]
        else:
            members = _members(runs, attached, logs, progress)
            save, validate, parts = _callbacks(runs, loaded, attached, logs)
            with rank_group(config, runs[0].folder) as rank:
                results = fit_together(loaded.base, members, loaded.task, attached.fleet, save, rank, validate, parts)
        # Save the trained weights, and begin the records with sizes, times and losses.
        records = [
            _save_training(run, loaded, design, handle, result, reference)
            for run, design, handle, result, reference in zip(
                runs, attached.designs, attached.handles, results, references, strict=True
            )
        ]
        # Draw images with the tuned models, and score them.
        trained = [i for i in attached.fleet.active if records[i].status == "finished"]
        evaluations = _sample_and_score(loaded, [runs[i] for i in trained], progress)
        # Complete the records; the caller writes them last.
        for i, evaluation in zip(trained, evaluations, strict=True):
            save_evaluation(records[i], evaluation, runs[i].folder)
        for run, record, log in zip(runs, records, logs, strict=True):
            record.seconds["total"] = (time.perf_counter() - started) / len(runs)
            log.summarize(record, run.folder)
    return records


def _callbacks(
    runs: Sequence[PreparedRun], loaded: _Loaded, attached: _Attached, logs: Sequence[NoLog]
) -> tuple[CheckpointSaver, Validation, LightningParts]:
    """What saves and validates while a fleet is trained, and Lightning's own callbacks."""
    from sdpet.training import Validation

    config, folders, seeds = runs[0].config, [run.folder for run in runs], [run.config.seed for run in runs]
    save = CheckpointSaver(folders, lambda: attached.fleet.active, config.checkpoint_seconds)
    validate = Validation(loaded.base, loaded.task, make_sampler(config), make_plan(config), seeds, folders)
    validate.tell = [log.images for log in logs]
    return save, validate, make_lightning_parts(config, folders[0])


@contextmanager
def _attach(base: BaseModel, runs: Sequence[PreparedRun]) -> Iterator[_Attached]:
    """Attach the designs to the base model inside the block."""
    from sdpet.methods import build, build_fleet
    from sdpet.training import SingleRun

    designs, seeds = [make_design(run.config, base) for run in runs], [run.config.seed for run in runs]
    with ExitStack() as stack:
        if len(runs) == 1:
            handle = build(base, designs[0], seeds[0])
            stack.callback(handle.detach)
            yield _Attached(designs, [handle], SingleRun())
            return
        fleet = build_fleet(base, designs, seeds)
        stack.callback(fleet.detach)
        for member in fleet.members:
            stack.callback(member.detach)
        yield _Attached(designs, fleet.members, fleet)


def _members(
    runs: Sequence[PreparedRun], attached: _Attached, logs: Sequence[NoLog], progress: ProgressCallback | None
) -> list[Member]:
    """What `fit_together` needs of each run. Losses of a run that resumes are logged again."""
    from sdpet.training import Member

    members = []
    for run, handle, log in zip(runs, attached.handles, logs, strict=True):
        options = make_train_config(run.config)
        state = None if run.state is None else dict(run.state)
        if state is not None:
            tell_state(log, options, state, run.folder)
        on_step, on_metrics = _on_step(progress, options.steps), log.metrics if log.is_kept else None
        members.append(Member(handle, run.config.seed, options, on_step, state, on_metrics))
    return members


def _on_step(progress: ProgressCallback | None, steps: int) -> Callable[[int, float], None] | None:
    return None if progress is None else lambda step, loss: progress("train", step, steps, loss)


def _save_training(
    run: PreparedRun,
    loaded: _Loaded,
    design: Design,
    handle: TunedModel,
    result: FitResult,
    references: dict[str, dict[str, float | None]],
) -> Record:
    """Save the weights of a run and begin its record."""
    handle.save(run.folder)
    record = Record(
        run_id=run.folder.name,
        study=run.config.study,
        status="finished",
        factors=factors(run.config, design.mid_dim),
        task=loaded.task.describe(),
        anchors=references,
        sizes={
            "trainable_params": handle.num_parameters(),
            "base_params": sum(p.numel() for p in loaded.base.unet.parameters()),
            "adapters": len(handle),
            "bytes": sum(file.stat().st_size for file in run.folder.glob("*.safetensors")),
        },
        seconds={"train": result.seconds, "per_step": result.seconds_per_step},
        peak_memory=result.peak_memory_bytes or None,
        loss=bin_loss(result.loss),
        settings=settings_of(run.config),
    )
    if not result.moved and not result.diverged:
        record.reason = f"the weights never moved: trainer.lr {run.config.trainer.lr:g} is too small for them"
        LOG.info(f"{run.folder.name}: {record.reason}.")
    asked = run.config.trainer.steps
    if len(result.loss) < asked and not result.diverged:
        record.reason = f"a callback ended training after {len(result.loss)} of {asked} steps"
    if result.diverged:
        record.status, record.reason = "diverged", f"the loss was not finite at step {len(result.loss)}"
    return record


def _sample_and_score(
    loaded: _Loaded, runs: Sequence[PreparedRun], progress: ProgressCallback | None
) -> Sequence[Evaluation | None]:
    """Evaluate the runs, in the order of their rows in a batch; None for a run whose samples are not finite."""
    from sdpet.scoring import evaluate_together

    if not runs:
        return []
    config, seeds = runs[0].config, [run.config.seed for run in runs]
    sampler, plan = make_sampler(config), make_plan(config)
    return evaluate_together(
        loaded.base, loaded.task, loaded.scorers, sampler, seeds, plan, sampling_progress(progress)
    )


def save_evaluation(record: Record, evaluation: Evaluation | None, folder: Path) -> None:
    """Store the scores in the record, and the samples and the noise map in the run's folder.

    Parameters
    ----------
    record : Record
        Is changed; it is not written.
    evaluation : Evaluation or None
        None if the samples were not finite; the run has then diverged.
    folder : Path
        The run's folder.
    """
    from sdpet.sampling import NOT_FINITE
    from sdpet.scoring import save_noise_map, save_samples

    if evaluation is None:
        record.status, record.reason = "diverged", NOT_FINITE
        return
    record.metrics, record.protocol, record.missing = evaluation.metrics, evaluation.protocol, evaluation.missing
    record.seconds |= evaluation.seconds
    save_samples(evaluation, folder / "samples")
    save_noise_map(evaluation, folder)


def sampling_progress(progress: ProgressCallback | None) -> Callable[[int, int], None] | None:
    """Wrap a callback with a phase as the callback ``(done, total)`` that `sdpet.scoring` takes."""
    return None if progress is None else lambda done, total: progress("sample", done, total)
