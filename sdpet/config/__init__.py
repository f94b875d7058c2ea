"""Check a composed config, and derive the run's id from it. Nothing here imports torch."""

from sdpet.config.checks import InadmissibleCell, check_groups, sized, validate
from sdpet.config.ids import (
    design_id,
    fleet_key,
    identity,
    name_of,
    question_of,
    run_folder,
    run_id,
    sampling_key,
    say_unused,
    scoring_key,
    training_id,
    ways_of,
)
from sdpet.config.run_config import LAB, RunConfig, ScorerSettings, with_paths

__all__ = [
    "LAB",
    "InadmissibleCell",
    "RunConfig",
    "ScorerSettings",
    "check_groups",
    "design_id",
    "fleet_key",
    "identity",
    "name_of",
    "question_of",
    "run_folder",
    "run_id",
    "sampling_key",
    "say_unused",
    "scoring_key",
    "sized",
    "training_id",
    "validate",
    "ways_of",
    "with_paths",
]
