"""Gates 4 and 5: what a study of all placements and of full fine-tuning shows, from its records and samples."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sdpet.files.project import PROJECT
from sdpet.lab.check.models import LabModel
from sdpet.lab.check.rows import Row, at_least, reported

SEEDS = 5  # runs of each design
FULL = "full"


def run_study(lab: LabModel, folder: Path, quiet: bool = False, count: int = SEEDS) -> None:
    """Train the runs that are missing: all placements and full fine-tuning, some seeds each.

    Parameters
    ----------
    lab : LabModel
        The model to check.
    folder : Path
        Folder of the study.
    quiet : bool
        Show no progress.
    count : int
        Number of seeds of each design.

    Raises
    ------
    SystemExit
        A run failed.
    """
    seeds = ",".join(map(str, range(count)))
    common = [f"study={folder.name}", f"output_root={folder.parent}", f"seed={seeds}", f"quiet={str(quiet).lower()}"]
    for overrides in ([f"+sweeps={lab.sweep}"], ["adapter=full"]):
        command = [sys.executable, str(PROJECT / "train.py"), "-m", *overrides, *lab.overrides, *common]
        done = subprocess.run(command, cwd=PROJECT)
        if done.returncode:
            raise SystemExit(f"The study in {folder} did not finish; see the messages above.")


class Study:
    """The finished runs of a study, by design (a placement, or "full") and seed.

    Parameters
    ----------
    lab : LabModel
        The model that was checked.
    folder : Path
        Folder of the study.
    count : int
        Number of seeds of each design; runs of further seeds are left out.

    Raises
    ------
    SystemExit
        The study is not complete.
    """

    def __init__(self, lab: LabModel, folder: Path, count: int = SEEDS) -> None:
        self.seeds = range(count)
        self.runs: dict[str, dict[int, tuple[Path, dict]]] = {}
        for path in sorted(folder.glob("*/record.json")):
            record = json.loads(path.read_text())
            if record["status"] == "finished":
                design = record["factors"]["placement"] or record["factors"]["method"]
                self.runs.setdefault(design, {})[record["factors"]["seed"]] = (path.parent, record)
        missing = [
            f"{design} seed {seed}" for design in self.runs for seed in self.seeds if seed not in self.runs[design]
        ]
        if missing or FULL not in self.runs or len(self.runs) != lab.placements + 1:
            raise SystemExit(f"The study in {folder} is not complete: {', '.join(missing) or 'designs are missing'}.")
        self.placements = sorted(set(self.runs) - {FULL})

    def scores(self, design: str, metric: str, seeds: Sequence[int] | None = None) -> np.ndarray:
        """The scores of one design.

        Parameters
        ----------
        design : str
            A placement, or "full".
        metric : str
            Name of the metric.
        seeds : sequence of int, optional
            The runs' seeds; None for all.

        Returns
        -------
        ndarray of float, (seeds,)
        """
        return np.array(
            [self.runs[design][seed][1]["metrics"][metric] for seed in self.seeds if seeds is None or seed in seeds]
        )

    def anchor(self, metric: str, which: str) -> float:
        """A reference score, as the mean over seeds.

        Parameters
        ----------
        metric : str
            Name of the metric.
        which : {"floor", "ceiling"}
            The untuned base model or real images.

        Returns
        -------
        float
        """
        return float(np.mean([self.runs[FULL][seed][1]["anchors"][metric][which] for seed in self.seeds]))

    def samples(self, design: str, role: str) -> tuple[np.ndarray, list[str]]:
        """The drawn images of one design and role, over all seeds.

        Parameters
        ----------
        design : str
            A placement, or "full".
        role : {"subject", "prompt", "class"}
            What the images were drawn for.

        Returns
        -------
        (ndarray of uint8 (N, H, W, 3), list of N str)
            Images and their prompts.
        """
        from PIL import Image

        images, prompts = [], []
        for seed in self.seeds:
            folder = self.runs[design][seed][0] / "samples"
            for line in (folder / "index.jsonl").read_text().splitlines():
                row = json.loads(line)
                if row["role"] == role:
                    images.append(np.asarray(Image.open(folder / row["file"])))
                    prompts.append(row["prompt"])
        return np.stack(images), prompts


def personalisation(study: Study) -> list[Row]:
    """Gate 4: full tuning and the best placement learn the subject, keep the class and follow prompts.

    Parameters
    ----------
    study : Study
        The finished study.

    Returns
    -------
    list of Row
    """
    floor, ceiling = study.anchor("clip_i", "floor"), study.anchor("clip_i", "ceiling")

    def share(design: str) -> float:
        return float((study.scores(design, "clip_i").mean() - floor) / (ceiling - floor))

    best = max(study.placements, key=share)
    rows = [
        reported(4, "CLIP-I of the untuned base (floor)", floor),
        reported(4, "CLIP-I of fresh views through the VAE (ceiling)", ceiling),
        at_least(4, "full tuning: share of the way from floor to ceiling", share(FULL), 0.9),
        at_least(4, f"best placement, {best}: share of the way", share(best), 0.7),
    ]
    for name, design in (("full tuning", FULL), (f"best placement, {best}", best)):
        rows.append(at_least(4, f"{name}: class prompt still draws a star", _class_kept(study, design), 0.9))
        rows.append(at_least(4, f"{name}: background of the prompt is drawn", _background_followed(study, design), 0.9))
        rows.append(reported(4, f"{name}: prior drift", float(study.scores(design, "prior_drift").mean())))
        rows.append(reported(4, f"{name}: CLIP-T", float(study.scores(design, "clip_t").mean())))
    rows.append(reported(4, "prior drift of the untuned base", study.anchor("prior_drift", "floor")))
    rows.append(reported(4, "CLIP-T of the untuned base", study.anchor("clip_t", "floor")))
    return rows


def _class_kept(study: Study, design: str) -> float:
    from sdpet.lab.judge import load_judge
    from sdpet.lab.world import SHAPES, SUBJECT_SHAPE

    images, _ = study.samples(design, "class")
    return float((load_judge().judge(images)["shape"] == SHAPES.index(SUBJECT_SHAPE)).mean())


def _background_followed(study: Study, design: str) -> float:
    from sdpet.lab.judge import load_judge
    from sdpet.lab.world import BACKGROUNDS

    images, prompts = study.samples(design, "prompt")
    wanted = [list(BACKGROUNDS).index(prompt.split()[-2]) for prompt in prompts]
    return float((load_judge().judge(images)["background"] == wanted).mean())


def meaning(study: Study) -> list[Row]:
    """Gate 5: the placement explains CLIP-I, and other seeds rank the placements in the same way.

    Parameters
    ----------
    study : Study
        The finished study.

    Returns
    -------
    list of Row
    """
    from scipy.stats import f_oneway, spearmanr

    groups = [study.scores(design, "clip_i") for design in study.placements]
    test = f_oneway(*groups)
    parts = study.seeds[: len(study.seeds) // 2], study.seeds[len(study.seeds) // 2 :]
    halves = [[study.scores(d, "clip_i", seeds).mean() for d in study.placements] for seeds in parts]
    named = " against ".join("{" + ", ".join(map(str, seeds)) + "}" for seeds in parts)
    means = np.array([group.mean() for group in groups])
    floor, ceiling = study.anchor("clip_i", "floor"), study.anchor("clip_i", "ceiling")
    inside = int(((means > floor) & (means < ceiling)).sum())
    params = [study.runs[d][0][1]["sizes"]["trainable_params"] for d in study.placements]
    degrees = f"F({len(groups) - 1}, {sum(map(len, groups)) - len(groups)})"
    return [
        Row(5, f"placement on CLIP-I, one-way {degrees}: p", float(test.pvalue), "< 0.001", bool(test.pvalue < 0.001)),
        reported(5, f"placement on CLIP-I, one-way {degrees}: F", float(test.statistic)),
        at_least(5, f"ranking by seeds {named}: Spearman", float(spearmanr(*halves).statistic), 0.7),
        at_least(5, "placements whose mean lies between floor and ceiling", inside, len(means)),
        reported(5, "most over fewest parameters of a placement", max(params) / min(params)),
        *_against_the_paper(study.placements, means),
    ]  # fmt: skip


def _against_the_paper(placements: list[str], means: np.ndarray) -> list[Row]:
    """The rank correlation with the paper's heatmap; nothing where the placements are not the paper's."""
    from scipy.stats import spearmanr

    from analysis import load_paper_heatmap  # a command, so it may import the analysis

    paper = load_paper_heatmap()
    names = paper["din"] + "-" + paper["dout"]
    published = dict(zip(names, paper["clip_similarity"], strict=True))
    if set(placements) != set(published):
        return []
    correlation = float(spearmanr(means, [published[name] for name in placements]).statistic)
    return [reported(5, "ranking against the paper's heatmap: Spearman", correlation)]
