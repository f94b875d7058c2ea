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
PRECISIONS = ("32-true", "16-mixed", "bf16-mixed")
DISTANCES = ("fid", "kid", "precision_recall", "density_coverage", "cmmd")
SUITES = ("objects", "living")  # files of sdpet/scoring/suites
PLACES = ("{prompt}", "{subject}")  # of a template for prompts
DTYPES = ("float32", "float16", "bfloat16")
