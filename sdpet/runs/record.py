"""The record of a run: one JSON file that is written last, so a run is complete if and only if it has a record.

Nothing here imports torch: the analysis reads records through this module or from the files.
"""

from __future__ import annotations

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
from sdpet.config import RunConfig, given_factors
from sdpet.files.atomic import write_atomic
from sdpet.files.digests import changed_files, digests_of, record_digest
from sdpet.files.plain_json import finite, to_json
from sdpet.files.project import INSTALLED
from sdpet.files.record_file import FILE, FORMAT, LaterFormat, read_record

WEIGHTS, SAMPLES, CONFIG = "the trained weights", "the samples", "config.yaml"  # what a run may have lost
STATUSES = ("finished", "diverged", "failed")
MAY_BE_NULL = ("reason", "peak_memory", "git_sha", "trained_in")


@cache
def package_versions() -> dict[str, str | None]:
    """Versions of the packages that the results depend on."""
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
    """The git commit of this package's checkout, with "+" if files were changed; None if it is not in a checkout."""
    if INSTALLED:
        return None  # the folder may lie in somebody's own checkout
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
    """The result of a run, as in record.json, which always has all keys.

    Attributes
    ----------
    run_id, study : str
        The run.
    status : str
        "finished", "diverged" or "failed".
    factors : dict
        Levels of the factors by name: those that every record has, and those that were given for the run.
    task : dict
        The task and its data.
    reason : str, optional
        Why the run diverged or failed, in one sentence.
    metrics : dict
        Scores by metric.
    anchors : dict
        Reference scores by metric: "floor" of the untuned model, "ceiling" of real images.
    protocol : dict
        How the scores were made.
    missing : dict
        The scores that were not available, and why.
    sizes : dict
        Numbers of parameters and adapters; "bytes" of the saved weights.
    seconds : dict
        Times by phase, in seconds.
    peak_memory : int, optional
        Peak memory of training in bytes.
    loss : list
        Pairs [step, mean loss of the steps up to it], see `bin_loss`.
    versions : dict
        Versions of packages.
    git_sha : str, optional
        See `commit`.
    trained_in : str, optional
        run_id of the run of this study that trained the weights, if another one did.
    evaluations : list
        Further scores, added by evaluate.py.
    digests : dict
        Digests of the record and of the run's files when it was written, see `sdpet.files.digests`.
    settings : dict
        Every key that can change the result, by dotted key (see `sdpet.config.settings_of`). From the settings of all
        runs of a study, `sdpet.config.varying` decides which are factors. Empty in records of older versions.
    format : int
        Version of the file format.
    """

    run_id: str
    study: str
    status: str
    factors: dict[str, Any]
    task: dict[str, Any]
    reason: str | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    anchors: dict[str, dict[str, float | None]] = field(default_factory=dict)
    protocol: dict[str, Any] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    sizes: dict[str, int | None] = field(default_factory=dict)
    seconds: dict[str, float | None] = field(default_factory=dict)
    peak_memory: int | None = None
    loss: list[list[float]] = field(default_factory=list)
    versions: dict[str, str | None] = field(default_factory=lambda: dict(package_versions()))
    git_sha: str | None = field(default_factory=commit)
    trained_in: str | None = None
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    format: int = FORMAT
    digests: dict[str, Any] = field(default_factory=dict)

    def objective(self, score: str) -> float:
        """A score as a number, for programs that search for it.

        Parameters
        ----------
        score : str
            A key of `metrics`.

        Returns
        -------
        float
            The score; nan for a run that diverged.

        Raises
        ------
        ValueError
            The run failed, or has no such score.
        """
        if self.status == "failed":
            raise ValueError(f"the run {self.run_id} failed: {self.reason}")
        if self.status == "finished" and score not in self.metrics:
            raise ValueError(f"objective must be one of {', '.join(self.metrics)}, not {score!r}.")
        value = self.metrics.get(score)
        return float("nan") if value is None else float(value)

    def write(self, folder: Path) -> None:
        """Write record.json atomically, with digests of itself and of the run's files in `folder`.

        Numbers that are not finite become null, since JSON has no such numbers.
        """
        if self.status not in STATUSES:
            raise ValueError(f"status must be one of {', '.join(STATUSES)}, not {self.status!r}.")
        found = digests_of(folder, self._floors(), self.digests)
        self.digests = {"record": record_digest(self.content()), **found}
        text = to_json(self.content(), indent=1)
        text = re.sub(
            r"\[\s+([-\d.e]+),\s+([-\d.e]+|null)\s+\]", r"[\1, \2]", text
        )  # one line for each pair of the loss
        write_atomic(folder / FILE, lambda file: file.write_text(text + "\n", encoding="utf-8"))

    def content(self) -> dict[str, Any]:
        """The record as plain values, as in record.json."""
        content = asdict(self)
        return finite({"format": content.pop("format"), **content})

    @classmethod
    def read(cls, folder: str | Path) -> Record:
        """Read the record of a run.

        Parameters
        ----------
        folder : str or Path
            The run's folder.

        Returns
        -------
        Record
            The record; keys of other versions are ignored.

        Raises
        ------
        LaterFormat
            A later version of sdpet wrote it; it is a ValueError.
        ValueError
            The folder has no record, so the run is not complete, or the record cannot be read.
        """
        path = Path(folder) / FILE
        try:
            content = read_record(path)
        except FileNotFoundError:
            raise ValueError(f"{folder} holds no {FILE}; it is not the folder of a complete run.") from None
        known = {f.name for f in fields(cls)}
        try:
            return cls(
                **{
                    key: value
                    for key, value in content.items()
                    if key in known and (value is not None or key in MAY_BE_NULL)
                }
            )
        except TypeError as error:
            raise ValueError(f"{path} lacks keys of a record ({error}).") from None

    @classmethod
    def find(cls, folder: Path) -> Record | None:
        """The record in the folder; None if the run is not complete or files that belong to it are missing.

        Raises LaterFormat if a later version of sdpet wrote the record: the run is complete, and is left alone.
        """
        record = cls.readable(folder)
        return None if record is None or record.lacks(folder) else record

    @classmethod
    def readable(cls, folder: Path) -> Record | None:
        """The record in the folder, whether or not files that belong to it are missing; None if none can be read.

        Raises LaterFormat as `find`.
        """
        if not (folder / FILE).exists():
            return None
        try:
            return cls.read(folder)
        except LaterFormat:
            raise
        except ValueError:
            return None

    def lacks(self, folder: Path) -> str | None:
        """Which files (weights, samples, config) were lost after the record was written; None if none is missing."""
        if self.status == "failed":
            return None
        weights = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
        if weights != self.sizes.get("bytes", weights):
            return WEIGHTS
        if self.status == "finished" and not (folder / "samples" / "index.jsonl").exists():
            return SAMPLES
        return None if (folder / CONFIG).exists() else CONFIG

    def changed(self, folder: Path) -> list[str]:
        """The files of the run that were changed since the record was written, and those that are missing."""
        return changed_files(folder, read_record(folder / FILE))

    def changed_weights(self, folder: Path) -> list[str]:
        """`changed`, of the trained weights and their description only."""
        return changed_files(folder, {"digests": self.digests}, (".safetensors", ".json"))

    def _floors(self) -> list[str]:
        """Indexes of the untuned model's images that the scores are compared with, below the study's folder."""
        bases = [f"base/seed{self.factors.get('seed')}", *(str(e["base"]) for e in self.evaluations if e.get("base"))]
        return sorted({f"{base}/samples/index.jsonl" for base in bases})


def factors(config: RunConfig, mid_dim: int | None = None) -> dict[str, Any]:
    """The levels of a run's factors.

    Parameters
    ----------
    config : RunConfig
        The run.
    mid_dim : int, optional
        The actual width, if it was derived from `params`.

    Returns
    -------
    dict
        Level by name of the factor; None if the method does not have the factor. After those that every record has
        (`sdpet.config.FACTORS`) follow the other settings that were given for the run, such as "min_snr".
    """
    return {**every_factor(config, mid_dim), **given_factors(config)}


def every_factor(config: RunConfig, mid_dim: int | None = None) -> dict[str, Any]:
    """The levels of the factors that every record has; see `factors`."""
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
    """Average a loss over bins of equal width.

    Parameters
    ----------
    loss : iterable of float
        One value for each step.
    points : int
        Largest number of bins.

    Returns
    -------
    list of [step, float]
        The last step of each bin, counted from 1, and the bin's mean loss.
    """
    values = list(loss)
    count = min(points, len(values))
    edges = [round(i * len(values) / count) for i in range(count + 1)] if count else []
    return [[end, math.fsum(values[start:end]) / (end - start)] for start, end in pairwise(edges)]
