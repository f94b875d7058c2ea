"""Closed sets that the config, the code and the errors share, each written once. Free of imports."""

from __future__ import annotations

# Options of peft's methods that a config may set, and their types. What sdpet decides itself (size, strength, layers)
# and what would break a promise (initial values that change the base model, dropout) is not among them.
PEFT_OPTIONS: dict[str, dict[str, type]] = {
    "dora": {},
    "lokr": {"decompose_factor": int, "decompose_both": bool},
    "loha": {},
    "oft": {"coft": bool, "eps": float, "block_share": bool, "use_cayley_neumann": bool,
            "num_cayley_neumann_terms": int},
    "ia3": {},
    "vera": {"d_initial": float, "projection_prng_key": int},
}  # fmt: skip
PEFT_METHODS = tuple(PEFT_OPTIONS)


def check_peft_options(method: str, options: dict[str, object]) -> None:
    """Raise ValueError (one sentence) if a method of peft does not take an option, or not with this type."""
    known = PEFT_OPTIONS[method]
    for key, value in options.items():
        if known.get(key) is not type(value):
            valid = ", ".join(f"{name} ({kind.__name__})" for name, kind in known.items()) or "none"
            raise ValueError(f"method {method} takes no option {key}={value!r}; its options are: {valid}.")


SHARE_A_MODEL = ("adapter", "lora")  # methods that leave the model as it is, so that several runs can share it
FILE_METHOD = "lora_file"  # a LoRA file of another tool as it is; it is not trained
LORA_FILE_DESIGN, LORA_FILE_WEIGHTS = (
    f"{FILE_METHOD}.json",
    f"{FILE_METHOD}.safetensors",
)  # in an imported file's folder
METHODS = ("adapter", "full", "lora", "embedding", *PEFT_METHODS, FILE_METHOD)
TEXT_METHODS = ("adapter", "lora", *PEFT_METHODS)  # methods that can tune the text encoder
# Activations of torch.nn that act on every number by itself, in lower case; sig is Sigmoid and ident Identity.
ACTIVATIONS = (
    "relu", "sig", "silu", "ident", "celu", "elu", "gelu", "hardshrink", "hardsigmoid", "hardswish", "hardtanh",
    "leakyrelu", "logsigmoid", "mish", "prelu", "relu6", "selu", "softplus", "softshrink", "softsign", "tanh",
    "tanhshrink",
)  # fmt: skip
ACTIVATION_ALIASES = {"sigmoid": "sig", "identity": "ident"}
FORMS = {  # sdpet's own forms of an adapter, and what of the design they take
    "bottleneck": ("activation", "mid_dim"),
    "lowrank": ("mid_dim",),
    "conv": ("activation", "mid_dim"),
    "scale_shift": (),
    "gated": ("activation", "mid_dim"),
}
FORM_OPTIONS: dict[str, tuple[str, ...]] = {"conv": ("kernel",)}  # further options of sdpet's own forms
DEFAULT_FORM, OWN_FORM = "bottleneck", "custom"  # the paper's; and a class of the user's, in the config
BLOCKS = {"all": "", "down": r"^down_blocks\.", "mid": r"^mid_block\.", "up": r"^up_blocks\."}  # and their paths
INITS = ("zero", "default")
WHERES = ("unet", "text_encoder", "both")  # parts of a model that a design is put into; a transformer is "unet", too
WHERE_WORDS = {"text_encoder": "text encoder", "both": "denoiser and text encoder"}  # those that are named in words
TASKS = {"dreambooth": "subject", "finetune": "captions"}  # task: the kind of data it takes
DIFFUSION_SAMPLERS = ("dpm", "ddim", "plms")
FLOW_SAMPLERS = ("dpm", "euler")  # of models trained by flow matching
SAMPLERS = (*DIFFUSION_SAMPLERS, "euler")
NOISE_LEVELS = ("logit_normal", "uniform")  # how flow matching draws noise levels in training
LOGGERS = ("none", "csv", "tensorboard", "wandb")
PROFILERS = ("simple", "advanced", "pytorch")
STRATEGIES = ("auto", "ddp", "ddp_find_unused_parameters_true")
SCHEDULES = ("constant", "cosine", "constant_with_warmup", "linear", "cosine_with_restarts", "polynomial")
OPTIMIZERS = ("adamw", "adamw8bit")
PREDICTIONS = ("epsilon", "v_prediction")  # what a UNet predicts
PRECISIONS = ("32-true", "16-mixed", "bf16-mixed")
AUTOCASTS = {"16-mixed": "float16", "bf16-mixed": "bfloat16"}  # dtype of each mixed precision
DISTANCE_METRICS = {  # what each distance gives; name is that of the metric, such as fid or clip_fid
    "fid": ("{name}", "{name}_infinity"),
    "kid": ("{name}", "{name}_deviation"),
    "precision_recall": ("precision", "recall"),
    "density_coverage": ("density", "coverage"),
    "cmmd": ("{name}",),
}
DISTANCES = tuple(DISTANCE_METRICS)
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
    "digit-judge": "sdpet.lab.digit_judge.DigitJudge",
    "shape-judge": "sdpet.lab.shape_judge.ShapeJudge",
    "openclip": "sdpet.scoring.openclip.OpenClipScorer",
    "dino": "sdpet.scoring.dino.DinoScorer",
    "inception": "sdpet.scoring.inception.InceptionScorer",
    "lpips": "sdpet.scoring.lpips.LpipsScorer",
}

# Scores in the features of the lab's CLIP that prefer damaged images of a set to its real images, by data. Records keep
# them, but they are not shown. Measured in docs/how-to/scores.md; tests/lab/test_reading_judges.py keeps this complete.
MISLEADING = {
    "digits": (
        "fid", "fid_infinity", "kid", "kid_deviation", "precision", "recall", "density", "coverage", "cmmd", "clip_t",
    ),
    "shapes": ("precision", "density"),
}  # fmt: skip
MISLED_SCORER = "lab-clip"  # as protocols name it
NOT_SHOWN = "{scores}: not shown, as damaged images score better than real ones there (docs/how-to/scores.md)"


def misleading(data: object, scores: dict[str, dict[str, object]]) -> list[str]:
    """The scores of a record that must not be shown: they prefer damaged images of its data to real ones.

    Parameters
    ----------
    data : str
        The record's data, such as "digits".
    scores : dict
        The entry "scores" of its protocol: for each score how it was made.

    Returns
    -------
    list of str
        Names of scores; none where another scorer than the lab's was used, as that was not measured.
    """
    bad = MISLEADING.get(str(data), ())
    return [name for name in bad if (scores.get(name) or {}).get("scorer") == MISLED_SCORER]
