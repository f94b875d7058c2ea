"""Checks of the task and its data: which go together, and whether the files are there."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from sdpet.choices import IMAGE_SUFFIXES, TASKS
from sdpet.config.cells import InadmissibleCell
from sdpet.config.own_parts import CAPTION_ARGUMENTS, SUBJECT_ARGUMENTS, check_arguments, load_named
from sdpet.config.run_config import RunConfig
from sdpet.files.folders import image_files, metadata_file
from sdpet.files.hashing import once

DATA_FOR_TASK = {
    "subject": "data=lab, data=folder or data=dreambench",
    "captions": "data=digits, data=shapes, data=captions, data=dataset or data=flowers",
}
MOST_STEPS = {"dpm": 999, "ddim": 1000, "plms": 1000, "euler": 1000}  # the largest number of steps of each sampler
COMPILERS = ("g++", "c++", "clang++")


def check_task(config: RunConfig) -> None:
    """Raise ValueError unless the task and the data go together, and the files are there."""
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
