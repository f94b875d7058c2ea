"""Check a composed config before any work, and turn it into a `RunConfig`. Nothing here imports torch."""

from __future__ import annotations

import importlib.util
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from sdpet.choices import FILE_METHOD
from sdpet.config.cells import InadmissibleCell
from sdpet.config.data_checks import COMPILERS, MOST_STEPS, check_task
from sdpet.config.design_checks import METHOD_KEYS, check_design
from sdpet.config.dreambench import filled
from sdpet.config.groups import LAB, LoggerSettings, SamplerSettings, TrainerSettings
from sdpet.config.lightning_checks import check_lightning_parts, check_own_logger, check_run_name
from sdpet.config.model_checks import check_model
from sdpet.config.own_parts import check_arguments, load_named, require_plain_step
from sdpet.config.run_config import RunConfig, lacking_key
from sdpet.config.schema import RULES, check_group, check_values
from sdpet.files.hashing import once
from sdpet.models.source import Source


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
    check_design(values["adapter"], values["form"])
    _check_steps(values)
    checked = RunConfig(values)
    check_task(checked)  # before a base model of several GB is fetched
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
    _check_sampler(checked.sampler, checked.trainer)
    lab_scorer = any(scorer.target == "lab-clip" for scorer in checked.eval.scorers.values())
    if lab_scorer and not (LAB / "scorer").is_dir():
        raise ValueError(f"the lab's scorer {LAB / 'scorer'} is missing; make it with python -m sdpet.lab.pretrain.")
    return checked


def _check_steps(values: dict[str, Any]) -> None:
    """A LoRA file is not trained, whatever trainer.steps says; all else is, for one step at least."""
    if values["adapter"]["method"] == FILE_METHOD:
        values["trainer"]["steps"] = 0
    elif values["trainer"]["steps"] < 1:
        raise ValueError(f"trainer.steps must be a whole number of at least 1, not {values['trainer']['steps']!r}.")


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
    if trainer.compile and trainer.device == "cpu":
        if trainer.compile == "graphs":
            raise ValueError("trainer.compile=graphs needs a GPU, which records CUDA graphs; use true on the CPU.")
        _require_compiler("trainer")


def _require_compiler(group: str) -> None:
    if not any(map(shutil.which, COMPILERS)):
        raise ValueError(f"{group}.compile needs a C++ compiler on the CPU, one of {', '.join(COMPILERS)}.")


def _check_sampler(sampler: SamplerSettings, trainer: TrainerSettings) -> None:
    if sampler.compile is True and trainer.device == "cpu":
        _require_compiler("sampler")
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
