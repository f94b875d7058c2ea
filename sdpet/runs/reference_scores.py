"""Floor and ceiling of the scores of a run, and the protocol its scores are made by."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sdpet.config import RunConfig
from sdpet.files.hashing import hash_text
from sdpet.runs.setup import Resources, make_plan, make_sampler


def reference_scores(config: RunConfig, resources: Resources, images: str) -> dict[str, dict[str, float | None]]:
    """Floor and ceiling of each metric, kept in output_root/.anchors for all runs that share them.

    images: the folder in output_root/study that receives the floor's images, see `floor_folder`.
    """
    from sdpet import scoring

    base, task, scorers = resources.base(config), resources.task(config), resources.scorers(config)
    root = config.output_root
    sampler, plan = make_sampler(config), make_plan(config)
    samples = root / config.study / images
    return scoring.reference_scores(base, task, scorers, sampler, config.seed, plan, root / ".anchors", samples=samples)


def floor_folder(seed: int, protocol: Mapping[str, Any] | None = None) -> str:
    """The folder in a study for the images of the untuned base with this seed.

    protocol: None for the scores that runs end with, or the protocol of later ones.
    """
    part = "" if protocol is None else f"{hash_text(json.dumps(protocol, sort_keys=True))[:12]}/"
    return f"base/{part}seed{seed}"


def protocol_of(config: RunConfig, resources: Resources) -> dict[str, Any]:
    """How scores under this config are made, as it reads in a record; needs no sampling."""
    from sdpet.scoring import protocol

    base, task, scorers = resources.base(config), resources.task(config), resources.scorers(config)
    made_by = protocol(base, task, scorers, make_sampler(config), make_plan(config))
    return json.loads(json.dumps(made_by))
