"""Scores of images: pure metrics, the images that a finished run draws, and the protocol of how scores were made."""

from sdpet.scoring.curve import guidance_axes, guidance_points, plot_guidance, write_guidance_table
from sdpet.scoring.evaluate import Evaluation, evaluate_run, evaluate_together, protocol, save_noise_map, save_samples
from sdpet.scoring.floor_ceiling import reference_scores
from sdpet.scoring.measures import Measure, personalisation_measures, protocol_entries, set_measures
from sdpet.scoring.metrics import clip_i, clip_t, fid
from sdpet.scoring.networks.dino import DinoScorer
from sdpet.scoring.networks.inception import InceptionScorer
from sdpet.scoring.networks.lpips import LpipsScorer
from sdpet.scoring.networks.openclip import OpenClipScorer
from sdpet.scoring.noise import noise_differences
from sdpet.scoring.plan import EvalImage, EvalPlan, image_seeds
from sdpet.scoring.precision import MixedScorer
from sdpet.scoring.prompt_set import PromptSet, read_prompts, read_set
from sdpet.scoring.scorers import Scorer, Scorers, load_scorers
from sdpet.scoring.task import EvalTask, SubjectTask

__all__ = [
    "DinoScorer",
    "EvalImage",
    "EvalPlan",
    "EvalTask",
    "Evaluation",
    "InceptionScorer",
    "LpipsScorer",
    "Measure",
    "MixedScorer",
    "OpenClipScorer",
    "PromptSet",
    "Scorer",
    "Scorers",
    "SubjectTask",
    "clip_i",
    "clip_t",
    "evaluate_run",
    "evaluate_together",
    "fid",
    "guidance_axes",
    "guidance_points",
    "image_seeds",
    "load_scorers",
    "noise_differences",
    "personalisation_measures",
    "plot_guidance",
    "protocol",
    "protocol_entries",
    "read_prompts",
    "read_set",
    "reference_scores",
    "save_noise_map",
    "save_samples",
    "set_measures",
    "write_guidance_table",
]
