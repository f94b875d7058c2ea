"""From a composed config to one that can be run, and to the run's identity. Free of torch, and quick."""

from __future__ import annotations

import importlib.util
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from sdpet.adapters.positions import PLACEMENTS, check_placement
from sdpet.choices import DTYPES, TASKS
from sdpet.config.read import LAB, cache_key, data_folders, placement, scorers, uses_lab_scorer
from sdpet.config.schema import check_group, check_values
from sdpet.files.hashing import IMAGES, once
from sdpet.models.source import source_of

FITTING = {
    "subject": "data=lab or data=folder",
    "captions": "data=digits, data=captions, data=dataset or data=flowers",
}
COMPILERS = ("g++", "c++", "clang++")
FORM = ("din", "dout", "activation", "scale", "init")
TAKES = {"full": (), "lora": ("mid_dim", "params", "scale"), "embedding": ()}  # keys of adapter; method adapter: all


class InadmissibleCell(ValueError):
    """Levels that exist, but not together: a placement no adapter can have, a task on data of another kind.

    A sweep leaves such cells out. cell: what to call it.
    """

    def __init__(self, sentence: str, cell: str) -> None:
        super().__init__(sentence)
        self.cell = cell


def validate(config: Any) -> dict[str, Any]:
    """A plain, resolved config in canonical types, checked as far as is possible without loading a model.

    config: an OmegaConf config or a mapping. Raises ValueError (one sentence, with the valid choices).
    """
    checked = check_values(_plain(config))
    checked["trainer"].pop("methods", None)  # a table that lr and steps were taken from
    _check_output(Path(checked["output_root"]).expanduser())
    _check_design(checked["adapter"])
    _check_base(checked["unet"], checked["trainer"], checked["quiet"])
    _check_task(checked["task"], checked["data"])
    _check_trainer(checked["trainer"])
    if checked["adapter"]["method"] == "embedding" and checked["task"]["name"] != "dreambooth":
        raise ValueError("method embedding learns the subject's word, so it needs task=dreambooth.")
    _check_logger(checked["logger"])
    if checked["sampler"]["eta"] and checked["sampler"]["name"] != "ddim":
        raise ValueError("sampler.eta above 0 needs sampler=ddim.")
    most = 999 if checked["sampler"]["name"] == "dpm" else 1000
    if checked["sampler"]["steps"] > most:
        name, steps = checked["sampler"]["name"], checked["sampler"]["steps"]
        raise ValueError(f"sampler.steps must be at most {most} with sampler={name}, not {steps}.")
    if any(map(uses_lab_scorer, scorers(checked["eval"]).values())) and not (LAB / "scorer").is_dir():
        raise ValueError(f"the lab's scorer {LAB / 'scorer'} is not there; make it with python -m sdpet.lab.pretrain.")
    return checked


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


@cache  # of what could be written; an error is not remembered
def _check_output(root: Path) -> None:
    there = next(folder for folder in (root, *root.absolute().parents) if folder.exists() or folder.is_symlink())
    try:
        with tempfile.TemporaryFile(dir=there):  # permissions alone do not tell: root, read-only file systems
            pass
    except OSError:
        raise ValueError(
            f"output_root {root} cannot be written ({there} is {_what(there)}); give another folder."
        ) from None


def _what(path: Path) -> str:
    return "not writable" if path.is_dir() else "not a folder"


def _check_design(adapter: dict[str, Any]) -> None:
    method = adapter["method"]
    takes = TAKES.get(method, (*FORM, "mid_dim", "params"))
    given = [key for key in (*FORM, "mid_dim", "params") if adapter[key] is not None and key not in takes]
    if given:
        raise ValueError(f"method {method} takes no {given[0]}; set adapter.{given[0]}=null.")
    lacking = [key for key in FORM if adapter[key] is None and key in takes]
    if lacking:
        raise ValueError(f"adapter.{lacking[0]} must be given when adapter.method is {method}.")
    if not takes:
        return
    if (adapter["mid_dim"] is None) == (adapter["params"] is None):
        if adapter["mid_dim"] is None:
            raise ValueError("adapter.mid_dim (a width) or adapter.params (a number of parameters) must be given.")
        adapter["params"] = None  # a width given by hand goes before the default size
    if method == "adapter" and placement(adapter) not in PLACEMENTS:
        try:
            check_placement(adapter["din"], adapter["dout"])
        except ValueError as error:
            raise InadmissibleCell(str(error), str(placement(adapter))) from None


def _check_base(unet: dict[str, Any], trainer: dict[str, Any], quiet: bool) -> None:
    source = once(cache_key("source", unet), lambda: source_of(unet, quiet))
    if unet.get("image_size") is not None:
        step = 2 ** (len(source.config("vae")["block_out_channels"]) - 1)
        if unet["image_size"] % step:
            raise ValueError(f"unet.image_size must be a multiple of {step}, not {unet['image_size']}.")
    device = trainer["device"]
    processes = trainer.get("devices", 1) * trainer.get("num_nodes", 1)
    if device != "cpu" and device.split(":")[0] != "cuda":
        raise ValueError(f"trainer.device must be cpu, cuda or cuda:N, not {device!r}.")
    if processes > 1 and ":" in device:
        raise ValueError(f"trainer.device {device} is one GPU; with trainer.devices above 1 give cuda (or cpu).")
    if trainer["batch_size"] % processes:
        raise ValueError(
            f"trainer.batch_size {trainer['batch_size']} must be a multiple of trainer.devices x trainer.num_nodes, "
            f"{processes}: it counts the images of a step on all of them together."
        )
    if device == "cpu" and unet["dtype"] != "float32":
        raise ValueError(f"unet.dtype {unet['dtype']} needs a GPU; on the CPU use float32 (of {', '.join(DTYPES)}).")


def _check_trainer(trainer: dict[str, Any]) -> None:
    if trainer.get("optimizer") == "adamw8bit" and importlib.util.find_spec("bitsandbytes") is None:
        raise ValueError("trainer.optimizer=adamw8bit needs the package bitsandbytes; pip install bitsandbytes.")
    if trainer.get("compile") and trainer["device"] == "cpu" and not any(map(shutil.which, COMPILERS)):
        raise ValueError(f"trainer.compile needs a C++ compiler on the CPU, one of {', '.join(COMPILERS)}.")


def _check_task(task: dict[str, Any], data: dict[str, Any]) -> None:
    kind = TASKS[task["name"]]
    if data["kind"] != kind:
        fitting = FITTING[kind]
        raise InadmissibleCell(
            f"task={task['name']} does not go with data={data['name']}; choose {fitting}.",
            f"{task['name']} on {data['name']}",
        )
    folders = data_folders({"data": data})
    for key, folder in folders.items():
        if not folder.is_dir():
            raise ValueError(f"data.{key}: the folder {folder} does not exist; give a folder of images.")
        if data["name"] in ("dataset", "flowers"):
            continue
        if not any(file.suffix.lower() in IMAGES for file in folder.iterdir()):
            raise ValueError(f"data.{key}: the folder {folder} holds no image ({', '.join(IMAGES)}).")
    if kind == "subject":
        if data["token"] not in data["prompt"].split():
            raise ValueError(f"data.token {data['token']!r} must be a word of data.prompt, {data['prompt']!r}.")
        if task["reg_weight"] > 0 and "class_dir" not in folders and "class_images" not in data:
            raise ValueError("data.class_dir (images of the class) must be given, or no prior: task.reg_weight=0.")
        most = 999 if data.get("class_sampler") == "dpm" else 1000
        if data.get("class_steps", 1) > most:
            raise ValueError(f"data.class_steps must be at most {most}, not {data['class_steps']}.")


def _check_logger(logger: dict[str, Any]) -> None:
    name = logger["name"]
    if name in ("tensorboard", "wandb") and importlib.util.find_spec(name) is None:
        raise ValueError(f"logger={name} needs the package {name}: pip install {name}.")
    if name != "wandb":
        return
    lacking = [key for key in ("project", "mode", "entity") if key not in logger]
    if lacking:
        raise ValueError(f"logger.{lacking[0]} must be given for W&B; choose the whole group by logger=wandb.")
    if logger["mode"] == "online":
        from sdpet.config.wandb_account import has_account

        if not has_account():
            raise ValueError("logger.mode=online needs a W&B account: wandb login, or logger.mode=offline.")


def checked_eval(plan: Any) -> dict[str, Any]:
    """The group `eval` of a command without runs, checked by itself."""
    return check_group("eval", _plain(plan))
