"""Scores of images: pure metrics, what a finished run draws, and the protocol that says how scores were made."""

from sdpet.scoring.evaluate import Evaluation, evaluate_run, evaluate_together, protocol, save_noise_map, save_samples
from sdpet.scoring.metrics import clip_i, clip_t, fid
from sdpet.scoring.plan import EvalPlan, Shot
from sdpet.scoring.scorers import Scorer, Scorers

__all__ = [
    "EvalPlan",
    "Evaluation",
    "Scorer",
    "Scorers",
    "Shot",
    "clip_i",
    "clip_t",
    "evaluate_run",
    "evaluate_together",
    "fid",
    "protocol",
    "save_noise_map",
    "save_samples",
]
