"""`python evaluate.py run=FOLDER`: further scores of a stored run, added to its record."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sdpet.record import Record
from sdpet.study.claim import claim
from sdpet.study.plan import name_of
from sdpet.study.show import scores_table
from sdpet.study.single import Bar
from sdpet.study.validate import validate

CHANGEABLE = ("sampler", "eval")


def stored_config(folder: Path) -> dict[str, Any]:
    """The config a run was done with. ValueError if the folder is not that of a run."""
    import yaml

    try:
        config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(
            f"{folder} holds no config.yaml; run must be a run's folder, outputs/<study>/<run_id>."
        ) from None
    except (OSError, yaml.YAMLError) as error:
        raise ValueError(f"{folder / 'config.yaml'} cannot be read ({' '.join(str(error).split())}).") from None
    if not isinstance(config, dict):
        raise ValueError(f"{folder / 'config.yaml'} is not the config of a run.")
    return config


def changed(config: dict[str, Any], given: Any, overrides: Sequence[str]) -> dict[str, Any]:
    """The stored config with those parts of sampler and eval that the overrides name taken from `given`."""
    from omegaconf import OmegaConf

    merged = OmegaConf.create(config)
    for override in overrides:
        key = override.lstrip("+").partition("=")[0]
        group = key.partition(".")[0]
        if key in ("run", "quiet"):
            continue
        if group not in CHANGEABLE:
            raise ValueError(f"{key} cannot be changed when scoring again; only {' and '.join(CHANGEABLE)} can.")
        value = OmegaConf.select(given, key)
        if key == "sampler":  # a sampler by name brings its steps; guidance stays that of the run
            value = OmegaConf.merge(value, {"guidance": config["sampler"]["guidance"]})
        plain = OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
        OmegaConf.update(merged, key, plain, merge=False, force_add=True)
    plain_config = OmegaConf.to_container(merged, resolve=True)
    assert isinstance(plain_config, dict)
    return validate({str(key): value for key, value in plain_config.items()})


def evaluate_again(given: Any, overrides: Sequence[str]) -> None:
    """Score the run again and add the scores to its record, unless scores of that very protocol are there."""
    from omegaconf import OmegaConf

    if OmegaConf.is_missing(given, "run"):
        raise ValueError("run must be given: python evaluate.py run=outputs/<study>/<run_id>.")
    folder = Path(str(given.run)).expanduser()
    config = changed(stored_config(folder), given, overrides)
    record = Record.read(folder)
    if record.status != "finished":
        raise ValueError(f"{folder} {record.status} ({record.reason}); only finished runs can be scored again.")
    with claim(folder) as mine:
        if not mine:
            raise ValueError(f"another process is working on {folder}; try again when it is done.")
        record = Record.read(folder)
        entry, made = _evaluate(config, folder, record, given.quiet)
        if made:
            record.evaluations.append(entry)
            record.write(folder)
    shown = Record(record.run_id, record.study, "finished", record.factors, record.task)
    shown.metrics, shown.anchors = entry["metrics"], entry["anchors"]
    print(f"{name_of(config)}" + ("" if made else " (scored so before; not done again)"))
    print(scores_table(shown))
    print(f"  samples   {folder / entry['samples']}\n  record    {folder / 'record.json'}")


def _evaluate(config: dict[str, Any], folder: Path, record: Record, quiet: bool) -> tuple[dict[str, Any], bool]:
    """The entry of these scores, and whether it is new."""
    from sdpet.run import evaluate
    from sdpet.stage import Stage, anchors_of, protocol_of

    stage = Stage()
    protocol = protocol_of(config, stage)
    first = {"metrics": record.metrics, "anchors": record.anchors, "protocol": record.protocol, "samples": "samples"}
    for entry in [first, *record.evaluations]:
        if entry["protocol"] == protocol:
            return entry, False
    bar = None if quiet or not sys.stderr.isatty() else Bar()
    try:
        frame = anchors_of(config, stage)
        scores = evaluate(config, folder, stage, bar)
    finally:
        if bar:
            bar.close()
    from sdpet.scoring import save_samples

    name = f"evaluations/{len(record.evaluations) + 1:03d}"
    save_samples(scores, folder / name)
    entry = {
        "metrics": scores.metrics,
        "anchors": frame,
        "protocol": scores.protocol,
        "missing": scores.missing,
        "seconds": scores.seconds,
        "samples": name,
        "made": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
    return entry, True
