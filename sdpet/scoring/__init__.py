"""Scores of images: pure metrics, what a finished run draws, and the protocol that says how scores were made."""

from sdpet.scoring.evaluate import Evaluation, evaluate_run, evaluate_together, protocol, save_samples
from sdpet.scoring.metrics import Scorer, clip_i, clip_t, fid
from sdpet.scoring.plan import EvalPlan, Shot

__all__ = [
    "EvalPlan",
    "Evaluation",
    "Scorer",
    "Shot",
    "clip_i",
    "clip_t",
    "evaluate_run",
    "evaluate_together",
    "fid",
    "protocol",
    "save_samples",
]
