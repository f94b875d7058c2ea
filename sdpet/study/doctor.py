"""`sdpet doctor`: is all there that a study needs? One line a check, what to do when not."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from sdpet.study.content import PIPELINE_PARTS
from sdpet.study.launch import usable_cores
from sdpet.study.validate import LAB

PACKAGES = ("torch", "diffusers", "transformers", "lightning", "hydra-core", "open_clip_torch", "statsmodels")


def main(arguments: list[str]) -> int:
    """The command: exit status 0 when nothing is missing."""
    if arguments:
        helped = arguments[0] in ("-h", "--help")
        text = "example: sdpet doctor (it takes no options)"
        print(text, file=sys.stdout if helped else sys.stderr)
        return 0 if helped else 2
    return 0 if doctor() else 1


def doctor() -> bool:
    """Print the checks; True when nothing is missing."""
    well = True
    for name, found, cure in checks():
        well &= not cure
        print(f"{'ok' if not cure else 'NO':<3} {name:<12} {found}" + (f": {cure}" if cure else ""))
    return well


def checks() -> Iterator[tuple[str, str, str]]:
    """(what, what was found, what to do, empty when all is well)."""
    yield "python", platform.python_version(), "" if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed"
    for package in PACKAGES:
        try:
            yield package, version(package), ""
        except PackageNotFoundError:
            yield package, "not installed", "make setup"
    missing = [part for part in PIPELINE_PARTS if not (LAB / "pipeline" / part).is_dir()]
    missing += [name for name in ("scorer", "data") if not (LAB / name).is_dir()]
    cure = "python -m sdpet.lab.pretrain makes it" if missing else ""
    yield "lab", f"lacks {', '.join(missing)}" if missing else str(LAB), cure
    yield "cores", f"{usable_cores()} usable of {os.cpu_count()}", ""
    yield "gpu", _gpu(), ""
    here = Path.cwd()
    free = shutil.disk_usage(here).free / 1e9
    writable = os.access(here, os.W_OK)
    yield "outputs", f"{free:.0f} GB free in {here}", "" if writable else "not writable; set output_root=FOLDER"


def _gpu() -> str:
    try:
        import torch
    except ImportError:
        return "unknown without torch"
    if not torch.cuda.is_available():
        return "none (the lab needs none)"
    return f"{torch.cuda.get_device_name()}, {torch.cuda.get_device_properties(0).total_memory / 2**30:.0f} GiB"
