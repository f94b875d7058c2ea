"""The record of a run: one JSON file, written last, so that a run is complete only when its record is there.

Free of torch: the analysis reads records through this module or straight from the files.
"""

from __future__ import annotations

import json
import math
import platform
import re
import subprocess
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from pathlib import Path
from typing import Any

import sdpet
from sdpet.config import RunConfig
from sdpet.files.atomic import write_atomic
from sdpet.files.plain_json import finite, to_json

FORMAT = 1
FILE = "record.json"
STATUSES = ("finished", "diverged", "failed")


@cache
def package_versions() -> dict[str, str | None]:
    """Versions of what the numbers depend on."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    found["sdpet"] = sdpet.__version__
    for package in ("torch", "diffusers", "transformers", "lightning", "open_clip_torch"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


@cache
def commit() -> str | None:
    """The commit of the checkout this package lies in, with "+" when files differ from it; None outside of one."""
    here = Path(sdpet.__file__).parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(here), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        dirty = git("status", "--porcelain", "--untracked-files=no", "--", ".")
        return git("rev-parse", "HEAD") + ("+" if dirty else "")
    except (OSError, subprocess.SubprocessError):
        return None


@dataclass
class Record:
    """All that is known of a run; every key is always there. Units: seconds, bytes; loss is [[step, value], ...]."""

    run_id: str
    study: str
    status: str  # finished, diverged or failed
    factors: dict[str, Any]
    task: dict[str, Any]
    reason: str | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    anchors: dict[str, dict[str, float | None]] = field(default_factory=dict)  # metric: floor and ceiling
    protocol: dict[str, Any] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)  # scores asked for and not had: why
    sizes: dict[str, int | None] = field(default_factory=dict)
    seconds: dict[str, float | None] = field(default_factory=dict)
    peak_memory: int | None = None
    loss: list[list[float]] = field(default_factory=list)
    versions: dict[str, str | None] = field(default_factory=lambda: dict(package_versions()))
    git_sha: str | None = field(default_factory=commit)
    trained_in: str | None = None  # run_id of the run of this study whose training this one shares
    evaluations: list[dict[str, Any]] = field(default_factory=list)  # later scores, by evaluate.py
    format: int = FORMAT

    def write(self, folder: Path) -> None:
        """Write record.json atomically. Numbers that are not finite become null: JSON has none."""
        if self.status not in STATUSES:
            raise ValueError(f"status must be one of {', '.join(STATUSES)}, not {self.status!r}.")
        text = to_json(self.content(), indent=1)
        text = re.sub(r"\[\s+([-\d.e]+),\s+([-\d.e]+|null)\s+\]", r"[\1, \2]", text)  # pairs of the loss on one line
        write_atomic(folder / FILE, lambda file: file.write_text(text + "\n", encoding="utf-8"))

    def content(self) -> dict[str, Any]:
        """The record as it reads in record.json."""
        content = asdict(self)
        return finite({"format": content.pop("format"), **content})

    @classmethod
    def read(cls, folder: str | Path) -> Record:
        """Raises ValueError when the folder holds no readable record (the run is not complete)."""
        path = Path(folder) / FILE
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ValueError(f"{folder} holds no {FILE}: not the folder of a complete run.") from None
        except (OSError, json.JSONDecodeError) as error:
            raise ValueError(f"{path} cannot be read as a record ({error}).") from None
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise ValueError(f"{path} is not a record of format {FORMAT}.")
        known = {f.name for f in fields(cls)}
        try:
            return cls(**{key: value for key, value in content.items() if key in known})
        except TypeError as error:
            raise ValueError(f"{path} lacks keys of a record ({error}).") from None

    @classmethod
    def find(cls, folder: Path) -> Record | None:
        """The record in the folder, or None when the run is not complete: what the record vouches for must be there."""
        if not (folder / FILE).exists():
            return None
        try:
            record = cls.read(folder)
        except ValueError:
            return None
        return None if record.lacks(folder) else record

    def lacks(self, folder: Path) -> str | None:
        """What this run has lost since its record was written (weights, samples, config), or None."""
        if self.status == "failed":
            return None
        weights = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
        if weights != self.sizes.get("bytes", weights):
            return "the trained weights"
        if self.status == "finished" and not (folder / "samples" / "index.jsonl").exists():
            return "the samples"
        return None if (folder / "config.yaml").exists() else "config.yaml"


def factors(config: RunConfig, mid_dim: int | None = None) -> dict[str, Any]:
    """The factors of a run by name; mid_dim is the width in use where it was derived from `params`."""
    adapter = config.adapter
    return {
        "placement": adapter.placement,
        "din": adapter.din,
        "dout": adapter.dout,
        "activation": adapter.activation,
        "mid_dim": adapter.mid_dim if mid_dim is None else mid_dim,
        "scale": adapter.scale,
        "init": adapter.init,
        "method": adapter.method,
        "lr": config.trainer.lr,
        "steps": config.trainer.steps,
        "guidance": config.sampler.guidance,
        "seed": config.seed,
    }


def bin_loss(loss: Iterable[float], points: int = 100) -> list[list[float]]:
    """At most `points` pairs [step, mean loss of the bin that ends there]; steps count from 1."""
    values = list(loss)
    count = min(points, len(values))
    edges = [round(i * len(values) / count) for i in range(count + 1)] if count else []
    return [[end, math.fsum(values[start:end]) / (end - start)] for start, end in pairwise(edges)]
