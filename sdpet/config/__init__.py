"""Check a composed config, and derive the run's id from it. Nothing here imports torch."""

from sdpet.config.checks import InadmissibleCell, check_groups, validate
from sdpet.config.ids import (
    design_id,
    fleet_key,
    identity,
    name_of,
    run_folder,
    run_id,
    sampling_key,
    say_unused,
    scoring_key,
    training_id,
)
from sdpet.config.own_parts import accepted, check_arguments, load_named, require_methods
from sdpet.config.run_config import LAB, RunConfig, ScorerSettings

__all__ = [
    "LAB",
    "InadmissibleCell",
    "RunConfig",
    "ScorerSettings",
    "accepted",
    "check_arguments",
    "check_groups",
    "design_id",
    "fleet_key",
    "identity",
    "load_named",
    "name_of",
    "require_methods",
    "run_folder",
    "run_id",
    "sampling_key",
    "say_unused",
    "scoring_key",
    "training_id",
    "validate",
]
