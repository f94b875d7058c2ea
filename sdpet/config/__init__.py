"""Check a composed config, and derive the run's id from it. Nothing here imports torch."""

from sdpet.config.cells import InadmissibleCell
from sdpet.config.checks import asked_for, check_groups, sized, validate
from sdpet.config.factors import (
    COMPUTED,
    FACTORS,
    Varying,
    following,
    given_factors,
    level_text,
    named_settings,
    shown_name,
    varying,
)
from sdpet.config.groups import LAB, ScorerSettings
from sdpet.config.ids import (
    WAYS,
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
from sdpet.config.own_parts import accepted, check_arguments, load_named, require_methods
from sdpet.config.run_config import RunConfig, with_paths
from sdpet.config.settings import plain_settings, settings_of

__all__ = [
    "COMPUTED",
    "FACTORS",
    "LAB",
    "WAYS",
    "InadmissibleCell",
    "RunConfig",
    "ScorerSettings",
    "Varying",
    "accepted",
    "asked_for",
    "check_arguments",
    "check_groups",
    "design_id",
    "fleet_key",
    "following",
    "given_factors",
    "identity",
    "level_text",
    "load_named",
    "name_of",
    "named_settings",
    "plain_settings",
    "question_of",
    "require_methods",
    "run_folder",
    "run_id",
    "sampling_key",
    "say_unused",
    "scoring_key",
    "settings_of",
    "shown_name",
    "sized",
    "training_id",
    "validate",
    "varying",
    "ways_of",
    "with_paths",
]
