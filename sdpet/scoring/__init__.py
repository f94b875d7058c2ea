"""Scores of images: pure metrics, the images that a finished run draws, and the protocol of how scores were made."""

from sdpet.scoring.evaluate import Evaluation, evaluate_run, evaluate_together, protocol, save_noise_map, save_samples
from sdpet.scoring.metrics import clip_i, clip_t, fid
from sdpet.scoring.plan import EvalPlan, Shot
from sdpet.scoring.scorers import Scorer, Scorers
from sdpet.scoring.task import EvalTask, SubjectTask

__all__ = [
    "EvalPlan",
    "EvalTask",
    "Evaluation",
    "Scorer",
    "Scorers",
    "Shot",
    "SubjectTask",
    "clip_i",
    "clip_t",
    "evaluate_run",
    "evaluate_together",
    "fid",
    "protocol",
    "save_noise_map",
    "save_samples",
]
