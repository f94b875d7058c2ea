"""Create the objects that a config names: base model, task, scorers, design, sampler and evaluation plan.

Only this module creates them. It imports heavy libraries when an object needs them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdpet.choices import PEFT_METHODS
from sdpet.config import RunConfig, ScorerSettings, accepted, check_arguments, load_named, require_methods
from sdpet.runs.libraries import import_libraries, quick_imports, quiet_libraries

if TYPE_CHECKING:
    from sdpet.methods import Design
    from sdpet.models import BaseModel
    from sdpet.sampling import SamplerConfig
    from sdpet.scoring import EvalPlan, Scorers
    from sdpet.tasks import Task
    from sdpet.training import LightningParts, TrainConfig

ProgressCallback = Callable[..., None]  # ("train", step, steps, loss) or ("sample", done, total)
SCORERS_UNUSED_BY = {"dreambooth": ("features",), "finetune": ("diversity",)}  # scorers in eval that a task ignores
NEW_SHAPES = "shapes"  # the captioned set that the lab draws
JUDGED_SETS = {  # by data, the judge that its runs get without being asked
    "digits": ("similarity.digit", "digit-judge"),
    NEW_SHAPES: ("similarity.shape", "shape-judge"),
}
PROFILERS = {
    "simple": "lightning.pytorch.profilers.SimpleProfiler",
    "advanced": "lightning.pytorch.profilers.AdvancedProfiler",
    "pytorch": "lightning.pytorch.profilers.PyTorchProfiler",
}
PROFILE = "profile"  # in the name of a profiler's file in the run's folder
SCORE_PREFIXES = {"scorer": "clip"}  # prefix of a scorer's metrics, if it is not the scorer's key
TRAINING_KEYS = (
    "steps", "lr", "weight_decay", "warmup", "schedule", "clip", "precision", "accumulate", "optimizer", "ema",
    "grad_checkpointing", "compile", "validate_every", "deterministic", "tf32",
)  # fmt: skip


class Resources:
    """Base model, task and scorers that the runs of one process share. They are created when first needed.

    Only the last object of each kind is kept.

    Attributes
    ----------
    max_fleet_size : dict of str to int
        By `fleet_key`, the number of members for which memory is sufficient, if a larger fleet has failed.
    """

    def __init__(self) -> None:
        self._made: dict[str, tuple[str, Any]] = {}
        self.max_fleet_size: dict[str, int] = {}

    def base(self, config: RunConfig) -> BaseModel:
        """The base model on the trainer's device."""
        from sdpet.models import load_base

        arguments = {**config.unet.arguments, "device": config.trainer.device, "dtype": config.unet.dtype}
        return self._shared("base", arguments, lambda: load_base(**arguments))

    def scorers(self, config: RunConfig) -> Scorers:
        """The scorers of `eval` that the task needs, and the judge of its data; ValueError if one is not available."""
        wanted = wanted_scorers(config)
        strict, root = config.eval.strict, config.output_root
        mixed = config.eval.plan.get("autocast")
        key = [{k: [scorer.target, dict(scorer.arguments)] for k, scorer in wanted.items()}, strict, str(root), mixed]
        return self._shared("scorers", key, lambda: make_scorers(wanted, strict, root, mixed))

    def task(self, config: RunConfig, progress: ProgressCallback | None = None) -> Task:
        """The task with its data. Latents and text states are computed once for all runs.

        Parameters
        ----------
        config : RunConfig
            The run.
        progress : callable, optional
            Called as ``progress(phase, done, total)`` while class images are drawn.

        Returns
        -------
        Task
            The task with its data.
        """
        arguments = {**config.task.options, **_data_arguments(config)}
        arguments["batch_size"] = config.trainer.batch_size
        arguments["cache"] = config.task_cache
        base = self.base(config)
        if config.draws_class_images:
            arguments["class_dir"] = str(_class_images(config, base, progress))
        own = [config.task.target, config.data.target, dict(config.data.options)]
        key = [config.task.name, arguments, *([own] if any(own) else []), id(base)]
        return self._shared("task", key, lambda: _make_task(config, base, arguments))

    def _shared(self, kind: str, key: Any, make: Callable[[], Any]) -> Any:
        text = json.dumps(key, sort_keys=True, default=str)
        if kind not in self._made or self._made[kind][0] != text:
            self._made.pop(kind, None)  # free the old object before the new one is created
            import_libraries()
            self._made[kind] = (text, make())
        return self._made[kind][1]


def wanted_scorers(config: RunConfig) -> dict[str, ScorerSettings]:
    """The scorers of `eval` that the task needs, and the judge of its data, by their key."""
    unused = SCORERS_UNUSED_BY.get(config.task.name, ())
    wanted = {key: scorer for key, scorer in config.eval.scorers.items() if key not in unused}
    if config.task.name == "finetune" and config.data.name in JUDGED_SETS:
        name, target = JUDGED_SETS[config.data.name]
        wanted.setdefault(name, ScorerSettings(target, {}))
    return wanted


def score_prefix(key: str) -> str:
    """The prefix of a scorer's metrics."""
    return SCORE_PREFIXES.get(key, key.rpartition(".")[2])


def make_design(config: RunConfig, base: BaseModel) -> Design:
    """The design of a config; if mid_dim is None, it becomes the one whose number of parameters is nearest `params`."""
    from dataclasses import replace

    from sdpet.adapters import AdapterSpec, mid_dim_for, model_at
    from sdpet.adapters.attachment import sites_of
    from sdpet.methods import Design, PeftSpec, nearest_spec
    from sdpet.methods.lora import rank_for

    adapter = config.adapter
    where = adapter.where
    model = model_at(base, where)  # of several parts, the numbers of parameters are summed
    match adapter.method:
        case "adapter":
            same = {key: getattr(adapter, key) for key in ("activation", "mid_dim", "scale", "init", "blocks", "when")}
            form = config.form
            spec = AdapterSpec.parse(str(adapter.placement), **same, form=form.kind, options=form.options)
            sites_of(model, spec)  # an error here comes before any long work
            if adapter.mid_dim is None and adapter.params is not None:
                spec = replace(spec, mid_dim=mid_dim_for(model, spec, adapter.params))
            return Design("adapter", spec, where=where)
        case "lora":
            rank = adapter.mid_dim or rank_for(model, adapter.params or 1)
            return Design("lora", rank=rank, scale=adapter.scale, where=where)
        case "embedding":
            return Design("embedding", token=config.data.token)
        case "lora_file":
            return Design("lora_file", file=adapter.file)
        case method if method in PEFT_METHODS:
            targets = None if adapter.targets is None else tuple(adapter.targets)
            size = adapter.mid_dim or (None if adapter.params is None else 1)
            peft = PeftSpec(method, size, adapter.scale, targets, adapter.options or {})
            if adapter.params is not None:
                peft = nearest_spec(model, peft, adapter.params)
            return Design(method, peft=peft, where=where)
    return Design(adapter.method)


def make_train_config(config: RunConfig) -> TrainConfig:
    """The training options of a config."""
    from sdpet.training import TrainConfig

    options = {key: getattr(config.trainer, key) for key in TRAINING_KEYS}
    if isinstance(options["optimizer"], Mapping):
        options["optimizer"] = _own_optimizer(options["optimizer"], config.trainer.weight_decay)
    return TrainConfig(**options)


def _own_optimizer(settings: Mapping[str, Any], weight_decay: float) -> Callable[..., Any]:
    """An optimiser of the user's own with its options, and with trainer.weight_decay where it names that argument."""
    make = load_named(settings["_target_"], "optimizer", "trainer.optimizer._target_")
    options = {key: value for key, value in settings.items() if key != "_target_"}
    return partial(make, **accepted(make, {"weight_decay": weight_decay}) | options)


def make_lightning_parts(config: RunConfig, folder: Path) -> LightningParts:
    """What a config sets on Lightning's Trainer.

    Parameters
    ----------
    config : RunConfig
    folder : Path
        Where its parts write, if the config does not say.

    Returns
    -------
    LightningParts
    """
    from lightning.pytorch.strategies import DDPStrategy

    from sdpet.training import LightningParts

    trainer = config.trainer
    callbacks = [_of_lightning(given, "callback", {}) for given in (trainer.callbacks or {}).values()]
    profiler, strategy = trainer.profiler, trainer.strategy
    if isinstance(profiler, str):
        profiler = {"_target_": PROFILERS[profiler]}
    make: Any = DDPStrategy
    if isinstance(strategy, Mapping):
        make = partial(_of_lightning, strategy, "strategy")
    elif strategy == "ddp_find_unused_parameters_true":
        make = partial(DDPStrategy, find_unused_parameters=True)
    to_folder = {"dirpath": folder, "filename": PROFILE}
    return LightningParts(
        callbacks=callbacks,
        profiler=None if profiler is None else _of_lightning(profiler, "profiler", to_folder),
        strategy=make,
        folder=folder,
    )


def _of_lightning(settings: Mapping[str, Any], kind: str, filled: Mapping[str, Any] | None = None, **given: Any) -> Any:
    """An object that a mapping with _target_ names; `filled` are arguments for what it leaves open."""
    make = load_named(settings["_target_"], kind, "_target_")
    options = {key: value for key, value in settings.items() if key != "_target_"}
    return make(**accepted(make, filled or {}) | options | given)


def make_sampler(config: RunConfig) -> SamplerConfig:
    """The sampler of a config."""
    from sdpet.sampling import SamplerConfig

    settings = config.sampler
    ways: dict[str, Any] = {
        "autocast": settings.autocast, "compile": settings.compile, "measured": config.output_root / ".sampling",
    }  # fmt: skip
    if settings.target is None:
        return SamplerConfig(settings.name, settings.steps, settings.guidance, settings.eta, **ways)
    make = load_named(settings.target, "sampler", "sampler._target_")

    def own(**given: Any) -> Any:
        made = make(**accepted(make, given))
        require_methods(made, settings.target or "", "sampler", "sampler._target_", "timesteps")
        return made

    return SamplerConfig(
        settings.target,
        settings.steps,
        settings.guidance,
        make=own,
        options=settings.options,
        **ways,
    )


def make_plan(config: RunConfig) -> EvalPlan:
    """The evaluation plan of a config: which images a trained run draws."""
    from sdpet.scoring import EvalPlan

    return EvalPlan(**config.eval.plan)


def make_scorers(
    wanted: Mapping[str, ScorerSettings], strict: bool, root: Path, autocast: str | None = None
) -> Scorers:
    """Create scorers.

    Parameters
    ----------
    wanted : mapping of str to ScorerSettings
        By the prefix of their metrics.
    strict : bool
        Whether a scorer that is not available is an error.
    root : Path
        Features of reference images are cached in root/.features.
    autocast : {"bf16-mixed", "16-mixed"}, optional
        Precision in which they compute; None: that of their weights.
    """
    from sdpet.scoring import load_scorers

    makers = {score_prefix(key): _maker(scorer, autocast) for key, scorer in wanted.items()}
    with quick_imports(), quiet_libraries():
        return load_scorers(makers, strict, root / ".features")


def _maker(scorer: ScorerSettings, autocast: str | None) -> Callable[[], Any]:
    from sdpet.scoring import MixedScorer

    def make() -> Any:
        made = _scorer_class(scorer.target)(**scorer.arguments)
        return made if autocast is None else MixedScorer(made, autocast, scorer.arguments.get("device", "cpu"))

    return make


def _scorer_class(target: str) -> Callable[..., Any]:
    """The class or function that creates a scorer: a built-in one by short name, a user's own by Python path."""
    match target:
        case "lab-clip":
            from sdpet.lab import load_scorer

            return load_scorer
        case "judge":
            from sdpet.lab import JudgeScorer

            return JudgeScorer
        case "digit-judge":
            from sdpet.lab import DigitJudge

            return DigitJudge
        case "shape-judge":
            from sdpet.lab import ShapeJudge

            return ShapeJudge
        case "openclip":
            from sdpet.scoring import OpenClipScorer

            return OpenClipScorer
        case "dino":
            from sdpet.scoring import DinoScorer

            return DinoScorer
        case "inception":
            from sdpet.scoring import InceptionScorer

            return InceptionScorer
        case "lpips":
            from sdpet.scoring import LpipsScorer

            return LpipsScorer
    make = load_named(target, "scorer", "_target_")

    def own(**arguments: Any) -> Any:
        check_arguments(make, target, "scorer", "_target_", arguments)
        made = make(**arguments)
        require_methods(made, target, "scorer", "_target_", "name", "weight_hash")
        return made

    return own


def _make_task(config: RunConfig, base: BaseModel, arguments: dict[str, Any]) -> Task:
    """A task from its arguments; data of the user's own are read now."""
    from sdpet.tasks import TASKS, own_data_arguments

    data, task = config.data, config.task
    if data.name == NEW_SHAPES and data.target is None:
        from sdpet.lab import NewShapes

        arguments = {**arguments, **own_data_arguments(NewShapes(), data.kind, base.image_size, "NewShapes")}
    if data.target is not None:
        source = load_named(data.target, f"{data.kind} data", "data._target_")(**data.options)
        require_methods(source, data.target, f"{data.kind} data", "data._target_")
        arguments = {**arguments, **own_data_arguments(source, data.kind, base.image_size, data.target)}
    if task.target is None:
        return TASKS[task.name](base=base, **arguments)
    make = load_named(task.target, "task", "task._target_")
    made = make(**accepted(make, {"base": base, **arguments}))
    require_methods(made, task.target, "task", "task._target_", "name")
    return made


def _class_images(config: RunConfig, base: BaseModel, progress: ProgressCallback | None) -> Path:
    from sdpet.sampling import SamplerConfig
    from sdpet.tasks import class_folder

    data, root = config.data, config.output_root / ".cache" / "class"
    assert data.class_prompt and data.class_images and data.class_sampler and data.class_steps
    assert data.class_guidance is not None
    sampler = SamplerConfig(data.class_sampler, data.class_steps, data.class_guidance)
    return class_folder(root, base, data.class_prompt, data.class_images, sampler, progress)


def _data_arguments(config: RunConfig) -> dict[str, Any]:
    data, folders = config.data, {key: str(folder) for key, folder in config.data.folders.items()}
    if data.target is not None:
        words = {"prompt": data.prompt, "class_prompt": data.class_prompt, "token": data.token}
        return {"data": data.name, **(words if data.kind == "subject" else {})}
    if data.kind == "captions":
        kind = {"source": data.name} if data.name in ("dataset", "flowers") else {}
        columns = {key: getattr(data, key) for key in ("image_column", "caption_column") if getattr(data, key)}
        share = {} if data.heldout_share is None else {"heldout_share": data.heldout_share}
        return {"data": folders.get("folder", data.name), **share, **kind, **columns}
    images = {key: folders.get(key) for key in ("subject_dir", "class_dir", "heldout_dir")}
    images |= {} if data.mask_dir is None else {"mask_dir": folders["mask_dir"]}
    return {**images, "data": data.name, "prompt": data.prompt, "class_prompt": data.class_prompt, "token": data.token}
