"""Reference scores of a run (floor: untuned model, ceiling: real images), and the protocol of its scores."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sdpet.config import RunConfig
from sdpet.files.hashing import hash_text
from sdpet.runs.setup import Resources, make_plan, make_sampler


def reference_scores(config: RunConfig, resources: Resources, images: str) -> dict[str, dict[str, float | None]]:
    """The reference scores of each metric; they are cached in output_root/.anchors and shared by runs.

    Parameters
    ----------
    config : RunConfig
        The run.
    resources : Resources
        Makes model, task and scorers.
    images : str
        Folder in output_root/study for the images of the untuned model, see `floor_folder`.

    Returns
    -------
    dict
        For each metric, "floor" (untuned model) and "ceiling" (real images), or None if there is no such score.
    """
    from sdpet import scoring

    base, task, scorers = resources.base(config), resources.task(config), resources.scorers(config)
    root = config.output_root
    sampler, plan = make_sampler(config), make_plan(config)
    samples = root / config.study / images
    return scoring.reference_scores(base, task, scorers, sampler, config.seed, plan, root / ".anchors", samples=samples)


def floor_folder(seed: int, protocol: Mapping[str, Any] | None = None) -> str:
    """The folder for the images of the untuned base model, relative to the study's folder.

    Parameters
    ----------
    seed : int
        Seed of the run.
    protocol : mapping, optional
        The protocol of later scores by evaluate.py; None for the first scores of a run.
    """
    part = "" if protocol is None else f"{hash_text(json.dumps(protocol, sort_keys=True))[:12]}/"
    return f"base/{part}seed{seed}"


def protocol_of(config: RunConfig, resources: Resources) -> dict[str, Any]:
    """The protocol of scores under this config, as in record.json; this draws no samples."""
    from sdpet.scoring import protocol

    base, task, scorers = resources.base(config), resources.task(config), resources.scorers(config)
    made_by = protocol(base, task, scorers, make_sampler(config), make_plan(config))
    return json.loads(json.dumps(made_by))
