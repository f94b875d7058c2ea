"""Closed sets that the config, the code and the errors share, each written once. Free of imports."""

from __future__ import annotations

METHODS = ("adapter", "full", "lora", "embedding")
ACTIVATIONS = ("relu", "sig", "silu", "ident")
INITS = ("zero", "default")
TASKS = {"dreambooth": "subject", "finetune": "captions"}  # task: the kind of data it takes
SAMPLERS = ("dpm", "ddim", "plms")
LOGGERS = ("none", "csv", "tensorboard", "wandb")
SCHEDULES = ("constant", "cosine", "constant_with_warmup", "linear", "cosine_with_restarts", "polynomial")
OPTIMIZERS = ("adamw", "adamw8bit")
PREDICTIONS = ("epsilon", "v_prediction")  # what a UNet predicts
PRECISIONS = ("32-true", "16-mixed", "bf16-mixed")
DISTANCES = ("fid", "kid", "precision_recall", "density_coverage", "cmmd")
SUITES = ("objects", "living")  # files of sdpet/scoring/suites
PLACEHOLDERS = ("{prompt}", "{subject}")  # of a template for prompts
DTYPES = ("float32", "float16", "bfloat16")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
OTHER_IMAGE_SUFFIXES = (  # pictures that are not read; a message names them
    ".avif", ".heic", ".heif", ".jfif", ".jpe", ".jp2", ".jxl", ".pbm", ".pgm", ".pnm", ".ppm", ".psd", ".svg", ".tga",
    ".arw", ".cr2", ".dng", ".nef",
)  # fmt: skip
CAPTION_KEYS = ("text", "caption", "prompt")  # columns of metadata.jsonl and of data sets, the first that is there

# Scorers by their short names. A run's id hashes the name on the right, which never changes: it is the Python path that
# version 0.1.0 hashed, wherever the code stands now.
SCORERS = {
    "lab-clip": "sdpet.lab.scorer.load_scorer",
    "judge": "sdpet.lab.judge.JudgeScorer",
    "openclip": "sdpet.scoring.openclip.OpenClipScorer",
    "dino": "sdpet.scoring.dino.DinoScorer",
    "inception": "sdpet.scoring.inception.InceptionScorer",
    "lpips": "sdpet.scoring.lpips.LpipsScorer",
}
