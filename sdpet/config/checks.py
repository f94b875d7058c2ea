"""Check a composed config before any work, and turn it into a `RunConfig`. Nothing here imports torch."""

from __future__ import annotations

import importlib.util
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

from sdpet.adapters.positions import PLACEMENTS, check_placement, component
from sdpet.choices import DEFAULT_FORM, FORMS, IMAGE_SUFFIXES, TASKS, check_peft_options
from sdpet.config.cells import InadmissibleCell
from sdpet.config.dreambench import filled
from sdpet.config.lightning_checks import check_lightning_parts, check_own_logger, check_run_name
from sdpet.config.model_checks import check_model
from sdpet.config.own_parts import CAPTION_ARGUMENTS, SUBJECT_ARGUMENTS, check_arguments, load_named, require_plain_step
from sdpet.config.run_config import (
    LAB,
    LoggerSettings,
    RunConfig,
    SamplerSettings,
    TrainerSettings,
    lacking_key,
)
from sdpet.config.schema import RULES, check_group, check_values
from sdpet.files.folders import image_files, metadata_file
from sdpet.files.hashing import once
from sdpet.models.source import Source

DATA_FOR_TASK = {
    "subject": "data=lab, data=folder or data=dreambench",
    "captions": "data=digits, data=captions, data=dataset or data=flowers",
}
MOST_STEPS = {"dpm": 999, "ddim": 1000, "plms": 1000, "euler": 1000}  # the largest number of steps of each sampler
COMPILERS = ("g++", "c++", "clang++")
FORM = ("din", "dout", "activation", "scale", "init")
PEFT_KEYS = ("targets", "options")
METHOD_KEYS = {
    "full": (),
    "lora": ("mid_dim", "params", "scale"),
    "embedding": (),
    "dora": ("mid_dim", "params", "scale", "targets", "options"),
    "lokr": ("mid_dim", "params", "scale", "targets", "options"),
    "loha": ("mid_dim", "params", "scale", "targets", "options"),
    "oft": ("mid_dim", "params", "targets", "options"),
    "ia3": ("targets", "options"),
    "vera": ("mid_dim", "params", "targets", "options"),
}  # the keys of the group adapter that a method takes; method adapter takes all of them


def validate(config: Any, source: Source | None = None) -> RunConfig:
    """Check a composed config as far as is possible without loading a model.

    Parameters
    ----------
    config : DictConfig, mapping or RunConfig
        The config that Hydra composed, or the plain mapping of a stored run. A `RunConfig` has been checked already
        and is returned unchanged.
    source : Source, optional
        The base model or its architecture, where the one that the config names need not be on this machine.

    Returns
    -------
    RunConfig
        The config in canonical types.

    Raises
    ------
    ValueError
        A value is invalid. One sentence names the key and the valid choices.
    InadmissibleCell
        Each level exists, but their combination does not.
    """
    if isinstance(config, RunConfig):
        return config
    if isinstance(config, dict) and source is None and type(seed := config.get("seed")) is int and seed >= 0:
        found = once(_cell(config), lambda: (config, _attempt(config)))[1]
        if isinstance(found, InadmissibleCell):
            raise found.with_traceback(None)
        return found.with_seed(RULES[""]["seed"](seed)) if seed != found.seed else found
    return _validated(config, source)


def _cell(config: Mapping[str, Any]) -> tuple[Any, ...]:
    """A key that is equal for configs that differ only in the seed and hold the same groups, as those of a plan do."""
    return ("cell", *(
        (key, id(value) if isinstance(value, dict | list) else value, type(value))
        for key, value in config.items()
        if key != "seed"
    ))  # fmt: skip


def _attempt(config: Any) -> RunConfig | InadmissibleCell:
    """The checked config, or why its design cannot exist."""
    try:
        return _validated(config, None)
    except InadmissibleCell as error:
        return error


def _validated(config: Any, source: Source | None) -> RunConfig:
    """See `validate`."""
    plain = _plain(config)
    if "asked" not in plain and (given := _asked_of_hydra()) is not None:
        plain = plain | {"asked": given}
    values = check_values(filled(plain))
    # Without the table from which conf/adapter takes lr and steps. Checked groups may be shared: they are not changed.
    values["trainer"] = {key: value for key, value in values["trainer"].items() if key != "methods"}
    values["adapter"] = dict(values["adapter"])
    if (lacking := lacking_key(values)) is not None:
        raise ValueError(f"{lacking} must be given: {lacking}=VALUE.")
    _check_output(Path(values["output_root"]).expanduser())
    _check_design(values["adapter"], values["form"])
    checked = RunConfig(values)
    _check_task(checked)  # before a base model of several GB is fetched
    checked = sized(checked, check_model(checked, source))
    _check_trainer(checked.trainer)
    if checked.adapter.method == "embedding" and checked.data.kind != "subject":
        raise InadmissibleCell(
            "method embedding learns the subject's word, so it needs task=dreambooth.",
            f"embedding on {checked.task.name}",
        )
    if checked.adapter.method == "embedding" and checked.unet.offload:
        raise ValueError("method embedding needs the text encoder in each step; set unet.offload=false.")
    _check_logger(checked.logger)
    _check_sampler(checked.sampler)
    lab_scorer = any(scorer.target == "lab-clip" for scorer in checked.eval.scorers.values())
    if lab_scorer and not (LAB / "scorer").is_dir():
        raise ValueError(f"the lab's scorer {LAB / 'scorer'} is missing; make it with python -m sdpet.lab.pretrain.")
    return checked


def sized(config: RunConfig, source: Source) -> RunConfig:
    """The config with the number of parameters that is usual for its base model, if neither it nor a width is given.

    Parameters
    ----------
    config : RunConfig
    source : Source
        The base model's files, or its architecture.

    Returns
    -------
    RunConfig
    """
    adapter = config.adapter
    takes = "params" in METHOD_KEYS.get(adapter.method, ("params",))
    if not takes or adapter.mid_dim is not None or adapter.params is not None:
        return config
    return config.changed(adapter={"params": source.usual_params})


def check_groups(config: Any, *groups: str) -> RunConfig:
    """Check some groups of a config, for commands that have no run.

    Parameters
    ----------
    config : DictConfig or mapping
        The config; only the groups named are read.
    *groups : str
        Names of groups, such as "sampler".

    Returns
    -------
    RunConfig
        A config with these groups only; reading another group raises KeyError.

    Raises
    ------
    ValueError
        A value is invalid. One sentence names the key and the valid choices.
    """
    return RunConfig({group: check_group(group, _plain(config[group])) for group in groups})


def _plain(config: Any) -> dict[str, Any]:
    if isinstance(config, dict):
        return config
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        problem = str(error).splitlines()[0].rstrip(".")
        _, _, missing = problem.partition("Missing mandatory value: ")
        if missing:
            missing = missing if "." in missing or not error.full_key else error.full_key
            raise ValueError(f"{missing} must be given: {missing}=VALUE.") from None
        raise ValueError(f"{error.full_key or 'the config'}: {problem}.") from None
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items() if key != "hydra"}


def _asked_of_hydra() -> dict[str, Any] | None:
    """The groups and keys that were chosen for the one run of this process; None where Hydra does not run it."""
    if (module := sys.modules.get("hydra.core.hydra_config")) is None or not module.HydraConfig.initialized():
        return None
    hydra = module.HydraConfig.get()
    return asked_for(hydra.runtime.choices, hydra.overrides.task)


def asked_for(choices: Mapping[Any, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """What was chosen when a config was composed, as its key `asked` stores it.

    Parameters
    ----------
    choices : mapping
        The chosen option of each group, as Hydra has it.
    overrides : sequence of str
        The overrides of the run.

    Returns
    -------
    dict
        "groups": the option of each group that can change a result. "keys": the groups and keys that were given.
    """
    groups = {str(group): str(name) for group, name in choices.items() if group in RULES and name is not None}
    groups = {group: name for group, name in groups.items() if group not in ("adapter", "logger")}
    given = [override.lstrip("+~").partition("=")[0].partition("@")[0] for override in overrides]
    return {"groups": groups, "keys": sorted({key for key in given if key.partition(".")[0] in RULES})}


@cache  # remembers folders that could be written; errors are not cached
def _check_output(root: Path) -> None:
    existing = next(folder for folder in (root, *root.absolute().parents) if folder.exists() or folder.is_symlink())
    try:
        with tempfile.TemporaryFile(
            dir=existing
        ):  # permission bits do not show read-only file systems, nor root's rights
            pass
    except OSError:
        raise ValueError(
            f"output_root {root} cannot be written ({existing} is {_problem(existing)}); give another folder."
        ) from None


def _problem(path: Path) -> str:
    return "not writable" if path.is_dir() else "not a folder"


def _check_design(adapter: dict[str, Any], form: dict[str, Any]) -> None:
    method = adapter["method"]
    takes = METHOD_KEYS.get(method, (*FORM, "mid_dim", "params"))
    _check_extent(adapter, form)
    if method == "adapter" and form["name"] in FORMS:
        _check_form(adapter, form["name"])
        if "mid_dim" not in FORMS[form["name"]]:
            return
    elif method == "adapter":
        _check_own_form(adapter, form)
    keys = (*FORM, "mid_dim", "params", *PEFT_KEYS)
    given = [key for key in keys if adapter.get(key) is not None and key not in takes]
    if given:
        raise InadmissibleCell(
            f"method {method} takes no {given[0]}; set adapter.{given[0]}=null.",
            f"{method} with {given[0]} {adapter[given[0]]}",
        )
    optional = _optional_keys(adapter, form)
    missing = [key for key in FORM if adapter[key] is None and key in takes and key not in optional]
    if missing:
        raise ValueError(f"adapter.{missing[0]} must be given when adapter.method is {method}.")
    if adapter.get("options") is not None:
        check_peft_options(method, adapter["options"])
    if "params" not in takes:
        return
    if adapter["mid_dim"] is not None:
        adapter["params"] = None  # an explicit width overrides the default number of parameters


def _optional_keys(adapter: dict[str, Any], form: dict[str, Any]) -> set[str]:
    """Keys of a design that may be null."""
    without = {"din", "dout"} if adapter.get("placements") else set()
    return without | ({"activation"} if "activation" not in FORMS.get(form["name"], ()) else set())


def _check_extent(adapter: dict[str, Any], form: dict[str, Any]) -> None:
    """Check where and when adapters act. Several placements take the place of din and dout."""
    if adapter["method"] != "adapter":
        for key, neutral in (("placements", None), ("blocks", "all"), ("when", [0.0, 1.0])):
            if adapter.get(key, neutral) != neutral:
                raise InadmissibleCell(
                    f"method {adapter['method']} takes no adapter.{key}.", f"{adapter['method']} with {key}"
                )
        if form != {"name": DEFAULT_FORM}:
            raise InadmissibleCell(
                f"method {adapter['method']} takes no form; leave form out.", f"{adapter['method']} with {form['name']}"
            )
        return
    if several := adapter.get("placements"):
        one = several[0].split("-") if len(several) == 1 else (None, None)
        adapter |= {"placements": several if len(several) > 1 else None, "din": one[0], "dout": one[1]}
    placements = adapter.get("placements") or [f"{adapter['din']}-{adapter['dout']}"]
    if adapter["din"] is not None and adapter["dout"] is not None and placements[0] not in PLACEMENTS:
        try:
            check_placement(adapter["din"], adapter["dout"])
        except ValueError as error:
            raise InadmissibleCell(str(error), placements[0]) from None


def _check_form(adapter: dict[str, Any], form: str) -> None:
    """Check what one of sdpet's forms takes."""
    for key in ("activation", "mid_dim", "params"):
        if adapter[key] is not None and ("mid_dim" if key == "params" else key) not in FORMS[form]:
            raise InadmissibleCell(
                f"form {form} takes no {key}; set adapter.{key}=null.", f"{form} with {key} {adapter[key]}"
            )
    placements = adapter.get("placements") or [f"{adapter['din']}-{adapter['dout']}"]
    text = [one for one in placements if one in PLACEMENTS and component(one) == "context"]
    if form == "conv" and text:
        said = f"form conv needs tokens on a grid, and at {text[0]} they are text."
        raise InadmissibleCell(said, f"conv at {text[0]}")


def _check_own_form(adapter: dict[str, Any], form: dict[str, Any]) -> None:
    """Check that the user's class can be imported and takes its options. It is the only reason to import torch here."""
    from sdpet.adapters.forms import check_class

    options = {key: value for key, value in form.items() if key not in ("name", "_target_")}
    check_class(form["_target_"], options, adapter["activation"])


def _check_trainer(trainer: TrainerSettings) -> None:
    if isinstance(trainer.optimizer, Mapping):
        target, key = trainer.optimizer["_target_"], "trainer.optimizer._target_"
        options = [name for name in trainer.optimizer if name != "_target_"]
        make = load_named(target, "optimizer", key)
        require_plain_step(make, target)
        check_arguments(make, target, "optimizer", key, options)
    check_lightning_parts(trainer)
    if trainer.optimizer == "adamw8bit" and importlib.util.find_spec("bitsandbytes") is None:
        raise ValueError("trainer.optimizer=adamw8bit needs the package bitsandbytes; pip install bitsandbytes.")
    if trainer.compile and trainer.device == "cpu" and not any(map(shutil.which, COMPILERS)):
        raise ValueError(f"trainer.compile needs a C++ compiler on the CPU, one of {', '.join(COMPILERS)}.")


def _check_sampler(sampler: SamplerSettings) -> None:
    if sampler.target is not None:
        make = load_named(sampler.target, "sampler", "sampler._target_")
        check_arguments(make, sampler.target, "sampler", "sampler._target_", sampler.options)
        return
    if sampler.eta and sampler.name != "ddim":
        raise InadmissibleCell("sampler.eta above 0 needs sampler=ddim.", f"{sampler.name} with eta {sampler.eta:g}")
    most = MOST_STEPS[sampler.name]
    if sampler.steps > most:
        raise InadmissibleCell(
            f"sampler.steps must be at most {most} with sampler={sampler.name}, not {sampler.steps}.",
            f"{sampler.name} with {sampler.steps} steps",
        )


def _check_task(config: RunConfig) -> None:
    task, data = config.task, config.data
    kind = data.kind
    if data.target is not None:
        make = load_named(data.target, f"{kind} data", "data._target_")
        check_arguments(make, data.target, f"{kind} data", "data._target_", data.options)
    if task.target is not None:
        make = load_named(task.target, "task", "task._target_")
        more = SUBJECT_ARGUMENTS if kind == "subject" else CAPTION_ARGUMENTS
        check_arguments(make, task.target, "task", "task._target_", task.options, more)
    elif data.kind != TASKS[task.name]:
        kind = TASKS[task.name]
        raise InadmissibleCell(
            f"task={task.name} does not go with data={data.name}; choose {DATA_FOR_TASK[kind]}.",
            f"{task.name} on {data.name}",
        )
    folders = data.folders
    for key, folder in folders.items():
        if data.name == "flowers" and not (folder / "flowers-102").is_dir():
            raise ValueError(
                f"data.{key}: there is no flowers-102 in {folder}; give the folder in which torchvision has put it: "
                "Flowers102(folder, download=True)."
            )
        if not folder.is_dir():
            raise ValueError(f"data.{key}: the folder {folder} does not exist; give a folder of images.")
        if data.name in ("dataset", "flowers"):
            continue
        files = once(f"images {folder}", partial(image_files, folder))
        if not files and not (kind == "captions" and metadata_file(folder)):
            raise ValueError(f"data.{key}: the folder {folder} holds no image ({', '.join(IMAGE_SUFFIXES)}).")
        if data.name in ("folder", "dreambench") and not once(f"photos {folder}", partial(_any_opens, files)):
            raise ValueError(f"data.{key}: none of the {len(files)} files in {folder} is a readable image.")
    if task.background < 1 and task.target is None and (kind != "subject" or data.name == "lab" or data.target):
        raise ValueError(
            "task.background below 1 needs photos with masks: task=dreambooth data=folder data.mask_dir=MASKS."
        )
    if kind != "subject" or (task.target is not None and data.token is None):
        return
    if data.token not in (data.prompt or "").split():
        raise ValueError(f"data.token {data.token!r} must be a word of data.prompt, {data.prompt!r}.")
    drawn = data.class_images is not None or data.target is not None
    if task.reg_weight > 0 and "class_dir" not in folders and not drawn:
        raise ValueError("data.class_dir (images of the class) must be given, or no prior: task.reg_weight=0.")
    most = MOST_STEPS[data.class_sampler or "ddim"]
    if (data.class_steps or 1) > most:
        raise ValueError(f"data.class_steps must be at most {most}, not {data.class_steps}.")


def _any_opens(files: list[Path]) -> bool:
    return any(map(_opens, files))


def _opens(file: Path) -> bool:
    """Whether the file begins as an image does; the pixels are read later."""
    from PIL import Image

    try:
        with Image.open(file):
            return True
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False


def _check_logger(logger: LoggerSettings) -> None:
    if logger.target is not None:
        check_own_logger(logger)
        return
    if logger.name in ("tensorboard", "wandb") and importlib.util.find_spec(logger.name) is None:
        raise ValueError(f"logger={logger.name} needs the package {logger.name}: pip install {logger.name}.")
    if logger.name != "wandb":
        return
    check_run_name(logger)
    missing = [key for key in ("project", "mode") if getattr(logger, key) is None]
    if missing:
        raise ValueError(f"logger.{missing[0]} must be given for W&B; choose the whole group by logger=wandb.")
    if logger.mode == "online":
        from sdpet.config.wandb_account import has_account

        if not has_account():
            raise ValueError("logger.mode=online needs a W&B account: wandb login, or logger.mode=offline.")
