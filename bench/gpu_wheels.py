"""Wheels of what a machine with PyTorch and Lightning, but without a network, lacks for bench/gpu.py and tests/gpu.

    python bench/gpu_wheels.py lay FOLDER [--python 3.12]   here: download or build them (versions from constraints.txt)
    python bench/gpu_wheels.py use FOLDER TARGET            there: unpack those that are not installed into TARGET

Then `PYTHONPATH=TARGET:. python bench/gpu.py`. What the machine has keeps its version, for TARGET never holds a package
that is installed. Needed packages are found by following the requirements of LACKING in this environment, down to what
EXPECTED brings along. Wheels for one version of Python alone are those of the version that --python names.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.tags import sys_tags
from packaging.utils import canonicalize_name, parse_wheel_filename

ROOT = Path(__file__).parent.parent
EXPECTED = ("torch", "lightning", "torchmetrics", "peft", "transformers", "accelerate", "torchvision", "pandas")
LACKING = (
    *("diffusers", "hydra-core", "omegaconf", "open_clip_torch", "torch-fidelity", "wandb"),
    *("lazy-loader", "pydantic", "pytest", "pytest-timeout"),
)
LIMIT = 60 * 2**20  # bytes of all wheels
PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in (28, 27, 17)] + ["manylinux2014_x86_64"]


def with_requirements(names: Iterable[str]) -> set[str]:
    """These packages and all that they require, by what is installed here."""
    found: set[str] = set()
    waiting = [canonicalize_name(name) for name in names]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        for text in metadata.requires(name) or []:
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                waiting.append(canonicalize_name(requirement.name))
    return found


def fits(name: str) -> bool:
    """Whether the wheel that is installed here goes with every newer Python 3 on the same kind of machine."""
    text = metadata.distribution(name).read_text("WHEEL") or ""
    tags = [line.removeprefix("Tag:").strip() for line in text.splitlines() if line.startswith("Tag:")]
    return bool(tags) and all("-abi3-" in tag or tag.split("-")[1] == "none" for tag in tags)


def needed() -> tuple[list[str], list[str]]:
    """Packages to take along: those with wheels for any newer Python, or built here, and those with one for each."""
    named = {canonicalize_name(name) for name in LACKING}
    # What is named is taken with its requirements, though something that is expected may require it here as well.
    asked = with_requirements(["pydantic"]) | named
    lacking = sorted((with_requirements(LACKING) - with_requirements(EXPECTED)) | asked)
    compiled = [name for name in lacking if not fits(name) and _for_one_python(name)]
    return [name for name in lacking if name not in compiled], compiled


def lay(folder: Path, python: str) -> None:
    """Fill the folder with wheels for a version of Python on Linux; SystemExit if they exceed the limit."""
    taken, compiled = needed()
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.whl"):
        old.unlink()
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder)]
    subprocess.run([*pip, "--constraint", str(ROOT / "constraints.txt"), *_pinned(taken)], check=True)
    other = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder)]
    other += ["--only-binary=:all:", "--python-version", python, "--implementation", "cp"]
    for platform in PLATFORMS:
        other += ["--platform", platform]
    subprocess.run([*other, *_pinned(compiled)], check=True)
    size = sum(file.stat().st_size for file in folder.glob("*.whl"))
    print(f"{len(taken) + len(compiled)} wheels, {size / 2**20:.1f} MiB in {folder}, for Python {python}")
    if size > LIMIT:
        raise SystemExit(f"the wheels have {size / 2**20:.1f} MiB, more than {LIMIT / 2**20:.0f}")


def use(folder: Path, target: Path) -> None:
    """Unpack the wheels of packages that are not installed; SystemExit if one is for another Python."""
    missing = [file for file in sorted(folder.glob("*.whl")) if not _installed(parse_wheel_filename(file.name)[0])]
    here = set(sys_tags())
    wrong = [file.name for file in missing if here.isdisjoint(parse_wheel_filename(file.name)[3])]
    if wrong:
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        raise SystemExit(f"{wrong[0]} is for another Python than {version}: make gpu-wheels GPU_VERSION={version}")
    if missing:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--upgrade"]
        subprocess.run([*pip, "--target", str(target), *map(str, missing)], check=True)
    print(f"{len(missing)} packages in {target}")


def _pinned(names: Iterable[str]) -> list[str]:
    return [f"{name}=={metadata.version(name)}" for name in names]


def _for_one_python(name: str) -> bool:
    """Whether a wheel is compiled, and not merely built here for want of one (as antlr4's is)."""
    return "Root-Is-Purelib: false" in (metadata.distribution(name).read_text("WHEEL") or "")


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("lay", "use"):
        command = commands.add_parser(name)
        command.add_argument("folder", type=Path)
        if name == "use":
            command.add_argument("target", type=Path)
        else:
            command.add_argument("--python", default=f"{sys.version_info.major}.{sys.version_info.minor}")
    options = parser.parse_args()
    lay(options.folder, options.python) if options.command == "lay" else use(options.folder, options.target)


if __name__ == "__main__":
    main()
