"""`python train.py`: one run with its progress, and its scores at the end."""

from __future__ import annotations

import time
from typing import Any

from sdpet.commands.progress_bar import Bar
from sdpet.config.checks import validate
from sdpet.config.ids import name_of, run_folder
from sdpet.runs.distributed import started_as
from sdpet.runs.record import Record
from sdpet.study.report import run_report
from sdpet.study.worker_pool import require_device


def train_one(config: Any) -> bool:
    """Run one config and say how it went; False when it did not finish. Of several ranks only the first one speaks."""
    config = validate(config)
    folder = run_folder(config)
    rank = started_as(config)
    if rank is not None and rank.rank > 0:
        from sdpet.runs.start import run

        record = run(config)
        return record is not None and record.status == "finished"
    before = Record.find(folder)
    if before is None or before.status == "failed":
        require_device(config)
    folder.parent.mkdir(parents=True, exist_ok=True)
    already = before is not None and before.status != "failed"
    bar = Bar(config["quiet"])
    if not already and not config["quiet"]:
        print(f"{name_of(config)}: {config['task']['name']} on {config['data']['name']}, "
              f"{config['trainer']['steps']} steps", flush=True)  # fmt: skip
    record = before if already and rank is None else None  # other ranks wait for word
    if record is None:
        from sdpet.runs.setup import Stage
        from sdpet.runs.start import run

        stage = Stage()
        bar.prepare("getting ready: model, data, scores of the untuned model")
        stage.scorers(config)  # what cannot score is said before anything is trained
        try:
            while (record := run(config, stage, watch=bar)) is None:
                time.sleep(1)  # another process is doing this very run
        finally:
            bar.close()
    print(run_report(name_of(config), record, folder, already))
    return record.status == "finished"
