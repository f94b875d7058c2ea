"""Runs of a study that differ only in sampler or eval are trained once; the other runs score the same weights.

The file `.trained/<training_id>` beside the run folders has the run_id of the run that trained the weights.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

from sdpet.config import RunConfig, settings_of, training_id
from sdpet.files.atomic import write_atomic
from sdpet.files.digests import INDEX
from sdpet.files.hashing import hash_file
from sdpet.runs.execute import PreparedRun, sampling_progress, save_evaluation
from sdpet.runs.libraries import quiet_libraries, torch_threads
from sdpet.runs.loggers.choose import open_log
from sdpet.runs.record import Record, factors
from sdpet.runs.reference_scores import floor_folder, reference_scores
from sdpet.runs.setup import ProgressCallback, Resources, make_plan, make_sampler

if TYPE_CHECKING:
    from sdpet.scoring import Evaluation

LOG = logging.getLogger("sdpet")
WEIGHTS = (".safetensors", ".json")
NOT_WEIGHTS = ("record.json", "identity.json")


def register_training(folder: Path, config: RunConfig) -> None:
    """Register a run as the one that trained its weights, so that other runs of the study can score them.

    Parameters
    ----------
    folder : Path
        The folder of a complete run.
    config : RunConfig
        Its config.
    """
    note = folder.parent / ".trained" / training_id(config)
    note.parent.mkdir(exist_ok=True)
    write_atomic(note, lambda file: file.write_text(folder.name + "\n", encoding="utf-8"))


def find_trained(folder: Path, config: RunConfig) -> Record | None:
    """Find another finished run of the study with the same training.

    Parameters
    ----------
    folder : Path
        The folder of the run to do.
    config : RunConfig
        Its config.

    Returns
    -------
    Record or None
        The record of the other run.
    """
    try:
        name = (folder.parent / ".trained" / training_id(config)).read_text(encoding="utf-8").strip()
    except OSError:
        return None
    other = folder.parent / name
    if not name or other == folder:
        return None
    record = Record.find(other)  # None also if its weights are lost
    if record is None or record.status != "finished":
        return None
    if changed := record.changed_weights(other):
        LOG.warning("%s is trained again, because %s", folder.name, changed[0])
        return None
    return record


def link_weights(source: Path, folder: Path) -> None:
    """Link or copy the saved weights of a run into another run's folder; hard links are used where possible."""
    for file in sorted(source.iterdir()):
        if file.suffix in WEIGHTS and file.name not in NOT_WEIGHTS:
            try:
                os.link(file, folder / file.name)
            except OSError:
                shutil.copyfile(file, folder / file.name)


def score_existing(
    run: PreparedRun, source: Record, resources: Resources, progress: ProgressCallback | None = None
) -> Record:
    """Sample and score weights that another run has trained.

    Parameters
    ----------
    run : PreparedRun
        The run to do.
    source : Record
        The record of the run that trained the weights.
    resources : Resources
        Makes model, task and scorers.
    progress : callable, optional
        Called as ``progress("sample", done, total)``.

    Returns
    -------
    Record
        Loss, sizes and training seconds are those of the other run; seconds["total"] is the time of this one.
    """
    config, folder = run.config, run.folder
    started = time.perf_counter()
    link_weights(folder.parent / source.run_id, folder)
    record = Record(
        run_id=folder.name,
        study=config.study,
        status="finished",
        factors=factors(config, source.factors["mid_dim"]),
        task=source.task,
        anchors=reference_scores(config, resources, floor_folder(config.seed)),
        sizes=source.sizes,
        loss=source.loss,
        peak_memory=source.peak_memory,
        trained_in=source.run_id,
        settings=settings_of(config),
    )
    with open_log(config, folder) as log:
        for step, loss in source.loss:
            log.metrics(int(step), {"loss": loss})
        try:
            save_evaluation(record, evaluate(config, folder, resources, progress), folder)
        except FloatingPointError as error:
            record.status, record.reason = "diverged", str(error)
        record.seconds |= {key: source.seconds.get(key) for key in ("train", "per_step")}
        record.seconds["total"] = time.perf_counter() - started
        log.summarize(record, folder)
    return record


def draw_samples_again(
    run: PreparedRun, record: Record, resources: Resources, progress: ProgressCallback | None = None
) -> Record:
    """Draw the samples of a complete run again, from its saved weights, where they were lost.

    On the same machine they have the same bits. The scores and the later evaluations of the record stay.

    Parameters
    ----------
    run : PreparedRun
        The run.
    record : Record
        Its record.
    resources, progress
        As for `score_existing`.

    Returns
    -------
    Record
        The record, to be written again.

    Raises
    ------
    ValueError
        The weights are not those that the record was written for, or the samples are not finite.
    """
    if changed := record.changed_weights(run.folder):
        raise ValueError(f"{changed[0]} since the record was written")
    from sdpet.scoring import save_samples

    evaluation = evaluate(run.config, run.folder, resources, progress)
    save_samples(evaluation, run.folder / "samples")
    before = record.digests.get("files", {}).pop(INDEX, None)
    if before is not None and before != hash_file(run.folder / INDEX):
        LOG.warning("%s: the samples were lost and are drawn again, with other bits than before", run.folder.name)
    else:
        LOG.warning("%s: the samples were lost and are drawn again", run.folder.name)
    return record


def evaluate(
    config: RunConfig, folder: Path, resources: Resources | None = None, progress: ProgressCallback | None = None
) -> Evaluation:
    """Sample and score a saved design.

    Parameters
    ----------
    config : RunConfig
        Names the model, the sampler and the evaluation.
    folder : Path
        The folder with the saved design.
    resources : Resources, optional
        Models and data that calls share.
    progress : callable, optional
        Called as ``progress("sample", done, total)``.

    Returns
    -------
    Evaluation
        Scores and samples.
    """
    from sdpet.methods import load
    from sdpet.scoring import evaluate_run

    resources = resources or Resources()
    with quiet_libraries(), torch_threads(config.trainer.threads):
        base, task, scorers = resources.base(config), resources.task(config), resources.scorers(config)
        handle = load(base, folder, strict=True, trust=[config.form.kind])
        try:
            sampler, plan = make_sampler(config), make_plan(config)
            return evaluate_run(base, task, scorers, sampler, config.seed, plan, sampling_progress(progress))
        finally:
            handle.detach()
