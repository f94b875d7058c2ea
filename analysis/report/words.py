"""The words and digits of the report: names of metrics and factors for people, numbers with sensible digits."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from analysis.runs.load import higher_is_better
from sdpet.adapters.positions import all_positions
from sdpet.files.terminal import counted


def _paper_name(name: str) -> str:
    """The paper's name of a position; with the stream before it where that is text, and its own where it has none."""
    known = all_positions()
    for prefix, stream in (("text_", "text "), ("joint_", "joint ")):
        if name.startswith(prefix) and (of_image := known.get(name.removeprefix(prefix))):
            return stream + (of_image.paper_name or of_image.name)
    return known[name].paper_name or name


PAPER_NAME = {name: _paper_name(name) for name in all_positions()}


@dataclass(frozen=True)
class Metric:
    """What a score is called, its unit for an axis, which way is better (None: neither) and what it tells."""

    label: str
    unit: str
    higher_is_better: bool | None
    tells: str

    @property
    def axis(self) -> str:
        return f"{self.label} ({self.unit})" if self.unit else self.label


METRICS = {
    "clip_i": Metric("CLIP-I", "mean cosine", True, "how much the samples look like the subject"),
    "clip_similarity": Metric("CLIP similarity", "mean cosine", True, "how much the samples look like the subject"),
    "clip_t": Metric("CLIP-T", "mean cosine", None, "how well the samples follow their prompts"),
    "prior_drift": Metric("Prior drift", "mean cosine", False, "how far the class itself has turned into the subject"),
    "noise_difference": Metric(
        "Noise difference", "mean absolute", None, "how much the subject's word changes the predicted noise"
    ),
    "lpips_diversity": Metric("Diversity", "mean LPIPS", None, "how much the samples of one prompt differ"),
    "precision": Metric("Precision", "share", True, "how many samples look like held-out images"),
    "recall": Metric("Recall", "share", True, "how many held-out images the samples cover"),
    "density": Metric("Density", "", True, "how densely held-out images surround the samples"),
    "coverage": Metric("Coverage", "share", True, "how many held-out images have a sample near"),
    "cmmd": Metric("CMMD", "", False, "how far the samples are from held-out images, as sets"),
    "fid": Metric("FID", "squared distance", False, "how far the samples are from held-out images, as sets"),
    "digit_right": Metric("Digits right", "share", True, "in how many samples a judge reads the digit of the caption"),
    "shape_right": Metric("Shapes right", "share", True, "in how many samples a judge reads the shape of the caption"),
    "kid": Metric("KID", "", False, "how far the samples are from held-out images, as sets"),
}

_COMMON = ("precision", "recall", "density", "coverage", "noise_difference", "lpips_diversity", "prior_drift")

FACTORS = {
    "din": "input (din)",
    "dout": "output (dout)",
    "placement": "placement",
    "activation": "activation",
    "mid_dim": "width (mid_dim)",
    "scale": "scale",
    "init": "initialisation",
    "method": "method",
    "lr": "learning rate",
    "steps": "training steps",
    "seed": "seed",
}


def metric_words(name: str, ours: bool = True) -> Metric:
    """The words for a metric; an unknown one keeps its column's name.

    ours: whether it is a score of sdpet: the precision in the table of a classifier is another one.
    """
    if name in METRICS and (ours or name not in _COMMON):
        return METRICS[name]
    network = name.rpartition("_")[0]
    if name.endswith("_i"):
        return Metric(f"{network.upper()}-I", "mean cosine", True, METRICS["clip_i"].tells + f", to {network.upper()}")
    if name.endswith(("_fid", "fid_infinity")):
        of = name.removesuffix("_infinity").removesuffix("fid").removesuffix("_")
        what = [f"on the features of {of.upper()}"] * bool(of)
        what += ["for infinitely many samples"] * name.endswith("_infinity")
        return Metric(f"FID ({', '.join(what)})", "squared distance", False, METRICS["fid"].tells)
    return Metric(name, "", higher_is_better(name), "as named in the data")


def factor_words(name: str) -> str:
    """A factor for people: `input (din)`; the factors of an interaction are joined by a cross."""
    return " × ".join(FACTORS.get(part, part) for part in name.split(":"))


def level_words(factor: str, level: object) -> str:
    """A level for people: positions and placements by their names in the paper, numbers without needless digits."""
    if factor in ("din", "dout"):
        return PAPER_NAME.get(str(level), str(level))
    if factor == "placement":
        return placement_words(str(level))
    if isinstance(level, float):
        return f"{level:g}"
    return str(level)


def placement_words(placement: str) -> str:
    """`attn2o-ffni` -> `CA_out → FFN_in`; anything that is not a placement stays as it is."""
    parts = placement.split("-")
    if len(parts) == 2 and all(part in PAPER_NAME for part in parts):
        return " → ".join(PAPER_NAME[part] for part in parts)
    return placement


def p_words(p: float) -> str:
    """`p = 0.012`, `p < 0.001`, or that there is none."""
    if not math.isfinite(p):
        return "p not estimable"
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}" if p < 0.1 else f"p = {p:.2f}"


def p_cell(p: float) -> str:
    """p for a table's cell."""
    return "–" if not math.isfinite(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"


def digits_for(values: Iterable[float]) -> int:
    """Decimals that leave about three significant digits of the spread of `values`."""
    finite = [v for v in values if math.isfinite(v)]
    if not finite:
        return 3
    spread, largest = max(finite) - min(finite), max(map(abs, finite))
    decimals = 2 - math.floor(math.log10(spread or largest or 1.0))
    # Cosines and the like never need more than three decimals, however close they lie.
    return max(0, min(decimals, 3 if largest >= 0.1 else 6))


def number(value: object, decimals: int | None = None) -> str:
    """A number for people: `decimals` places, or three significant digits; an en dash where there is none."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "–"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if decimals is not None:
        return f"{value:.{decimals}f}".replace("-", "\N{MINUS SIGN}")
    if isinstance(value, int) or (float(value).is_integer() and abs(value) >= 100):
        return f"{int(value):,}".replace(",", "\N{NARROW NO-BREAK SPACE}").replace("-", "\N{MINUS SIGN}")
    places = max(0, 2 - math.floor(math.log10(abs(value)))) if value else 0
    return f"{value:.{min(places, 6)}f}".replace("-", "\N{MINUS SIGN}")


def readable(text: str) -> str:
    """Metrics by their labels, and the paper's name after the first mention of each placement."""
    for name, metric in METRICS.items():
        text = re.sub(rf"\b{name}\b", metric.label, text)
    for placement in dict.fromkeys(re.findall(r"\b\w+-\w+\b", text)):
        if (words := placement_words(placement)) != placement:
            text = re.sub(rf"\b{placement}\b", f"{placement} ({words})", text, count=1)
            text = text.replace(f"({words}) (", f"({words}; ")
    return text.replace(" %", "%")


def mark_words(
    name: str, label: str, mean: float, decimals: int, low: float = math.nan, high: float = math.nan,
    runs: Sequence[float] = (),
) -> str:  # fmt: skip
    """What a mark of a figure stands for, a line each: its name, the mean, the interval, and the runs."""
    lines = [name, f"{label} {number(mean, decimals)}"]
    if math.isfinite(low) and math.isfinite(high):
        lines.append(f"95% interval {number(low, decimals)} to {number(high, decimals)}")
    if len(runs):
        few = listing((number(v, decimals) for v in runs), "and") if 1 < len(runs) <= 6 else ""
        lines.append(f"n = {counted(len(runs), 'run')}" + (f": {few}" if few else ""))
    return "\n".join(lines)


def intervals(low: Iterable[float], high: Iterable[float], decimals: int) -> list[str]:
    """`0.12 to 0.34` for each pair; an en dash where an end is missing."""
    return [
        f"{number(a, decimals)} to {number(b, decimals)}" if a == a and b == b else "–"
        for a, b in zip(low, high, strict=True)
    ]


def listing(words: Iterable[str], last: str = "and") -> str:
    """`a, b and c`."""
    items = list(words)
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} {last} {items[-1]}" if items else ""
