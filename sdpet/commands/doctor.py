"""`sdpet doctor`: check that everything needed for a study, or for a model and design, is installed."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from sdpet.commands.errors import wrong_usage
from sdpet.config import LAB
from sdpet.files.hashing import PIPELINE_PARTS
from sdpet.study.worker_pool import usable_cores

PACKAGES = ("torch", "diffusers", "transformers", "lightning", "hydra-core", "open_clip_torch", "statsmodels")


HELP = """example: sdpet doctor unet=sd15 adapter=attn2o-ffni adapter.mid_dim=60

  sdpet doctor                  check that everything needed for a study is installed
  sdpet doctor KEY=VALUE ...    the same for a model and a design, given as for train.py: number of adapters,
                                parameters, memory of a training step, what is missing. Downloads nothing.
"""


def main(arguments: list[str]) -> int:
    """Run the command; returns exit status 0 if nothing is missing, 1 if something is, 2 for a wrong command line."""
    if arguments and arguments[0] in ("-h", "--help"):
        print(HELP, end="")
        return 0
    if arguments and ("=" not in arguments[0] or arguments[0].startswith("-")):
        wrong_usage("sdpet doctor", f"{arguments[0]!r} is not KEY=VALUE")
    if not arguments:
        return 0 if doctor() else 1
    from sdpet.commands.doctor_model import model_checks

    return 0 if report(model_checks(arguments)) else 1


def doctor() -> bool:
    """Print the checks for a study; returns True if nothing is missing."""
    return report(checks())


def report(found: Iterable[tuple[str, str, str]]) -> bool:
    """Print checks one by one, each as soon as it is done; returns True if nothing is missing."""
    well = True
    for name, what, cure in found:
        well &= not cure
        print(f"{'ok' if not cure else 'NO':<3} {name:<12} {what}" + (f": {cure}" if cure else ""), flush=True)
    return well


def checks() -> Iterator[tuple[str, str, str]]:
    """Yield (name, finding, remedy) of each check; the remedy is empty if nothing is missing."""
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
