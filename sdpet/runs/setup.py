"""What a validated config names, made real: base model, task, scorer, design, plan of the evaluation.

Heavy imports wait until something is made.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdpet.config.read import LAB_IMAGES, SCORER_KEYS, data_folders, draws_class_images, placement, scorers

if TYPE_CHECKING:
    from sdpet.training.config import TrainConfig

OWN = ("lr", "weight_decay", "warmup", "schedule", "clip", "ema", "optimizer")  # of trainer: free within a fleet
SHARED = ("steps", "precision", "accumulate", "grad_checkpointing", "compile", "validate_every")
TRAINER_KEYS = (*OWN, *SHARED)  # what fit() takes

if TYPE_CHECKING:
    from sdpet.methods import Design
    from sdpet.models.base import BaseModel
    from sdpet.sampling.loop import SamplerConfig
    from sdpet.scoring import EvalPlan, Scorers
    from sdpet.tasks import Task

# What eval names and a task has no use for, and what the rest is called in scores.
UNUSED = {"dreambooth": ("features",), "finetune": ("diversity",)}
SCORER_NAMES = {"scorer": "clip"}


class Stage:
    """What runs of one process share: base model, task and scorer, loaded when first needed."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[str, Any]] = {}
        self.most: dict[str, int] = {}  # members of a fleet that memory was found to be enough for, by `fleet_key`

    def base(self, config: Mapping[str, Any]) -> BaseModel:
        from sdpet.models.load import load_base

        unet, device = config["unet"], config["trainer"]["device"]
        more = {key: unet[key] for key in ("use_ema", "config", "image_size") if unet.get(key)}
        arguments = {"name": unet["name"], "path": unet["path"], "device": device, "dtype": unet["dtype"], **more}
        if unet["path"] is None:
            arguments["name"] = "lab"
        return self._keep("base", arguments, lambda: load_base(**arguments))

    def scorers(self, config: Mapping[str, Any]) -> Scorers:
        """Those that the task needs of the ones eval names. ValueError (one sentence) for what cannot be had."""
        unused, root = UNUSED[config["task"]["name"]], Path(config["output_root"]).expanduser()
        wanted = {name: item for name, item in scorers(config["eval"]).items() if name not in unused}
        strict = config["eval"].get("strict", True)
        return self._keep("scorers", [wanted, strict, str(root)], lambda: load_scorers(wanted, strict, root))

    def task(self, config: Mapping[str, Any], watch: Callable[[str, int, int], None] | None = None) -> Task:
        """Latents and text states are computed once a task, whatever the number of runs, and kept on disk.

        watch(phase, done, total): told of class images being drawn.
        """
        from sdpet.tasks import TASKS

        options = {k: v for k, v in config["task"].items() if k not in ("name", "_target_")}
        arguments = options | _data_arguments(config)
        arguments["batch_size"] = config["trainer"]["batch_size"]
        arguments["cache"] = str(Path(config["output_root"]) / ".cache")
        base = self.base(config)
        if draws_class_images(config):
            from sdpet.tasks.class_images import class_folder

            arguments["class_dir"] = str(class_folder(config, base, watch))
        make = TASKS[config["task"]["name"]]
        return self._keep("task", [config["task"]["name"], arguments, id(base)], lambda: make(base, **arguments))

    def _keep(self, what: str, key: Any, make: Callable[[], Any]) -> Any:
        text = json.dumps(key, sort_keys=True, default=str)
        if what not in self._kept or self._kept[what][0] != text:
            self._kept.pop(what, None)  # free the old one before the new one is made
            self._kept[what] = (text, make())
        return self._kept[what][1]


def anchors_of(config: Mapping[str, Any], stage: Stage, images: str) -> dict[str, dict[str, float | None]]:
    """Floor and ceiling of each metric, kept in output_root/.anchors for all runs that share them.

    images: where in output_root/<study> the floor's images are put, see `floor_images`.
    """
    from sdpet.scoring.floor_ceiling import anchors

    base, task, scorers = stage.base(config), stage.task(config), stage.scorers(config)
    root = Path(config["output_root"]).expanduser()
    samples = root / config["study"] / images
    sampler, plan = make_sampler(config), eval_plan(config)
    return anchors(base, task, scorers, sampler, config["seed"], plan, root / ".anchors", samples=samples)


def floor_images(seed: int, protocol: Mapping[str, Any] | None = None) -> str:
    """The folder in a study of what the untuned base draws for runs of this seed: as the runs were scored when they
    ended, or under another protocol."""
    from sdpet.files.hashing import hash_text

    part = "" if protocol is None else f"{hash_text(json.dumps(protocol, sort_keys=True))[:12]}/"
    return f"base/{part}seed{seed}"


def load_scorers(wanted: Mapping[str, Mapping[str, Any]], strict: bool, root: Path) -> Scorers:
    """The scorers of `sdpet.config.read.scorers`; features of references are kept in root/.features."""
    from sdpet.scoring.scorers import load

    hush()
    makers = {SCORER_NAMES.get(name, name.rpartition(".")[2]): _maker(item) for name, item in wanted.items()}
    return load(makers, strict, root / ".features")


def protocol_of(config: Mapping[str, Any], stage: Stage) -> dict[str, Any]:
    """How scores under this config are made; needs no sampling."""
    from sdpet.scoring import protocol

    hush()
    base, task, scorers = stage.base(config), stage.task(config), stage.scorers(config)
    made_by = protocol(base, task, scorers, make_sampler(config), eval_plan(config))
    return json.loads(json.dumps(made_by))  # as it reads in a record


def eval_plan(config: Mapping[str, Any]) -> EvalPlan:
    from sdpet.scoring import EvalPlan

    apart = ("_target_", "similarity", "strict", *SCORER_KEYS)
    return EvalPlan(**{key: value for key, value in config["eval"].items() if key not in apart})


def make_sampler(config: Mapping[str, Any]) -> SamplerConfig:
    """The sampler of a validated config."""
    from sdpet.sampling.loop import SamplerConfig

    return SamplerConfig(**{key: value for key, value in config["sampler"].items() if key != "_target_"})


def hush() -> None:
    """Silence what libraries say to their own developers; called before they are imported."""
    import logging

    for name in ("TRANSFORMERS_VERBOSITY", "DIFFUSERS_VERBOSITY"):
        os.environ.setdefault(name, "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    for name in ("lightning.pytorch", "lightning.fabric", "lightning", "torch.distributed"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.formatwarning = lambda message, *place, **more: f"note: {message}\n"
    warnings.filterwarnings("ignore", module=r"(lightning|torch|diffusers|transformers|open_clip|torchmetrics)\..*")


def design_of(config: Mapping[str, Any], base: BaseModel) -> Design:
    """The design of a config; a width or rank of null becomes the one whose parameters come nearest to `params`."""
    from dataclasses import replace

    from sdpet.adapters import AdapterSpec, mid_dim_for
    from sdpet.methods import Design

    adapter = config["adapter"]
    if adapter["method"] == "lora":
        from sdpet.methods.lora import rank_for

        rank = adapter["mid_dim"] or rank_for(base.unet, adapter["params"])
        return Design("lora", rank=rank, scale=adapter["scale"])
    if adapter["method"] == "embedding":
        return Design("embedding", token=config["data"]["token"])
    if adapter["method"] != "adapter":
        return Design(adapter["method"])
    form = {key: adapter[key] for key in ("activation", "scale", "init")}
    spec = AdapterSpec.parse(str(placement(adapter)), **form, mid_dim=adapter["mid_dim"] or 1)
    if adapter["mid_dim"] is None:
        spec = replace(spec, mid_dim=mid_dim_for(base.unet, spec, adapter["params"]))
    return Design("adapter", spec)


def _maker(arguments: Mapping[str, Any]) -> Callable[[], Any]:
    from hydra.utils import instantiate

    return lambda: instantiate(arguments)


def _data_arguments(config: Mapping[str, Any]) -> dict[str, Any]:
    data, folders = config["data"], data_folders(config)
    if data["kind"] == "captions":
        source = str(folders["folder"]) if folders else data["name"]
        kind = {"source": data["name"]} if data["name"] in ("dataset", "flowers") else {}
        columns = {key: data[key] for key in ("image_column", "caption_column") if key in data}
        return {"data": source, "heldout_share": data["heldout_share"], **kind, **columns}
    given = {key: str(folders[key]) if key in folders else None for key in LAB_IMAGES}
    return {**given, "data": data["name"], **{key: data[key] for key in ("prompt", "class_prompt", "token")}}


def options_of(config: Mapping[str, Any]) -> TrainConfig:
    """How a run of this config is trained."""
    from sdpet.training.config import TrainConfig

    return TrainConfig(**{key: config["trainer"][key] for key in TRAINER_KEYS if key in config["trainer"]})
