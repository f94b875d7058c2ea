"""The steps of a run: load, attach, train, sample, score, record."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdpet.runs.checkpoint import SECONDS, Keeper
from sdpet.runs.distributed import company
from sdpet.runs.loggers.choose import open_log
from sdpet.runs.record import Record, bin_loss, factors
from sdpet.runs.setup import Stage, anchors_of, design_of, eval_plan, floor_images, hush, make_sampler

if TYPE_CHECKING:
    from sdpet.methods import Handle
from sdpet.runs.setup import options_of

Watch = Callable[..., None]  # (phase: train or sample, steps done, steps in all); in training then the loss


def train_and_score(
    runs: Sequence[tuple[dict[str, Any], Path, dict[str, Any] | None]], stage: Stage, watch: Watch | None
) -> Iterator[tuple[int, Record]]:
    """Place and record of each run (config, folder, state to go on from), when all of them are trained and scored."""
    hush()
    import torch

    from sdpet.methods import build, build_fleet
    from sdpet.sampling.loop import NOT_FINITE
    from sdpet.scoring import evaluate_together, save_noise_map, save_samples
    from sdpet.training.module import Alone, Member
    from sdpet.training.trainer import fit_together
    from sdpet.training.validation import Validation

    config = runs[0][0]
    torch.set_num_threads(config["trainer"]["threads"])
    base, task, scorers = stage.base(config), stage.task(config, watch), stage.scorers(config)
    frames = [anchors_of(own, stage, floor_images(own["seed"])) for own, _, _ in runs]
    base_params = sum(p.numel() for p in base.unet.parameters())
    started = time.perf_counter()
    designs = [design_of(own, base) for own, _, _ in runs]
    seeds = [own["seed"] for own, _, _ in runs]
    fleet = None if len(runs) == 1 else build_fleet(base, designs, seeds)
    handles: Sequence[Handle] = fleet.members if fleet else [build(base, designs[0], seeds[0])]
    crew = fleet or Alone()
    records, members = [], []
    try:
        with ExitStack() as stack:
            logs = [stack.enter_context(open_log(own, folder)) for own, folder, _ in runs]
            for (own, folder, state), design, handle, frame, log in zip(
                runs, designs, handles, frames, logs, strict=True
            ):
                options = options_of(own)
                for step, loss in enumerate((state or {"loss": []})["loss"]):
                    log.step(step + 1, loss)
                members.append(Member(handle, own["seed"], options, _on_step(log, watch, options.steps), state))
                records.append(
                    Record(
                        run_id=folder.name,
                        study=own["study"],
                        status="finished",
                        factors=factors(own, design.mid_dim),
                        task=task.describe(),
                        anchors=frame,
                    )
                )
            keeper = Keeper(
                [folder for _, folder, _ in runs], lambda: crew.aboard, config.get("checkpoint_seconds", SECONDS)
            )
            sampler, plan = make_sampler(config), eval_plan(config)
            validate = Validation(base, task, sampler, plan, seeds, [folder for _, folder, _ in runs])
            with company(config, runs[0][1]) as rank:
                results = fit_together(base, members, task, fleet, keeper, rank, validate)
            for (_, folder, _), handle, record, result in zip(runs, handles, records, results, strict=True):
                record.loss = bin_loss(result.loss)
                record.peak_memory = result.peak_memory_bytes
                record.seconds = {"train": result.seconds, "per_step": result.seconds_per_step}
                handle.save(folder)
                record.sizes = _sizes(folder, handle, base_params)
                if result.diverged:
                    record.status = "diverged"
                    record.reason = f"the loss was not finite at step {len(result.loss)}"
            scored = [i for i in crew.aboard if records[i].status == "finished"]
            if scored:
                found = evaluate_together(
                    base, task, scorers, sampler, [seeds[i] for i in scored], plan, sampling_progress(watch)
                )
                for i, scores in zip(scored, found, strict=True):
                    if scores is None:
                        records[i].status, records[i].reason = "diverged", NOT_FINITE
                        continue
                    records[i].metrics, records[i].protocol = scores.metrics, scores.protocol
                    records[i].seconds |= scores.seconds
                    records[i].missing = scores.missing
                    save_samples(scores, runs[i][1] / "samples")
                    save_noise_map(scores, runs[i][1])
            for (_, folder, _), record, log in zip(runs, records, logs, strict=True):
                record.seconds["total"] = (time.perf_counter() - started) / len(runs)
                log.summarize(record, folder)
    finally:
        for handle in handles:
            handle.detach()
        if fleet:
            fleet.detach()
    yield from enumerate(records)


def _on_step(log: Any, watch: Watch | None, steps: int) -> Callable[[int, float], None]:
    def on_step(step: int, loss: float) -> None:
        log.step(step, loss)
        if watch:
            watch("train", step, steps, loss)

    return on_step


def _sizes(folder: Path, handle: Handle, base_params: int) -> dict[str, int | None]:
    written = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    return {
        "trainable_params": handle.num_parameters(),
        "base_params": base_params,
        "adapters": len(handle),
        "bytes": written,
    }


def sampling_progress(watch: Watch | None) -> Callable[[int, int], None] | None:
    return None if watch is None else lambda done, total: watch("sample", done, total)
