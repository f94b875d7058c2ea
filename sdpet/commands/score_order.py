"""Example: python -m sdpet.commands.score_order

Compare all scores of the lab on both tasks, for the untuned base, a good adapter, full fine-tuning and real images.

Missing runs are trained first (a few minutes on 2 cores). The column "order" says whether both tuned models score
better than the base, and not better than real images by more than `--tolerance`. The exit status is 0 only if all do.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from sdpet.files.project import PROJECT
from sdpet.runs.record import Record

ADAPTER = "attn2c-attn2c"
TASKS = {"dreambooth": [], "finetune": ["task=finetune", "data=digits"]}
# Scores that tuning need not bring closer to real images, and why.
OTHERWISE = {
    "clip_t": "falls as similarity rises",
    "prior_drift": "should stay at the base's value",
    "noise_difference": "effect of the subject's word",
    "kid_deviation": "standard deviation of kid",
    "recall": "high for scattered samples; see coverage",
}


def main() -> int:
    parser = argparse.ArgumentParser(
        "python -m sdpet.commands.score_order",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--output", type=Path, default=Path("outputs"), help="folder of the runs")
    parser.add_argument("--tolerance", type=float, default=0.1, help="share of the distance from base to real images")
    arguments = parser.parse_args()
    lines, well = [], True
    for task, more in TASKS.items():
        records = trained(arguments.output.resolve(), task, more)
        rows, ordered = table(records, arguments.tolerance)
        lines += ["", f"{task}, seed 0", "", *rows]
        well &= ordered
    print("\n".join(lines[1:]))
    return int(not well)


def trained(output: Path, task: str, more: list[str]) -> dict[str, Record]:
    """The records of the adapter and of full fine-tuning; missing runs are trained."""
    study = f"scores_{task}"
    common = [f"study={study}", f"output_root={output}", "eval=lab_full", "quiet=true", *more]
    for adapter in (ADAPTER, "full"):
        command = [sys.executable, str(PROJECT / "train.py"), f"adapter={adapter}", *common]
        if subprocess.run(command, cwd=PROJECT, stdout=subprocess.DEVNULL).returncode:
            raise SystemExit(f"The run of {adapter} did not finish; see {output / study}.")
    found = [Record.read(path.parent) for path in sorted((output / study).glob("*/record.json"))]
    return {str(record.factors["placement"] or record.factors["method"]): record for record in found}


def table(records: dict[str, Record], tolerance: float) -> tuple[list[str], bool]:
    """The lines of a Markdown table, and whether all comparable scores are in order."""
    lines = [f"| score | untuned base | {ADAPTER} | full | real images | order |", "|---|---|---|---|---|---|"]
    well = True
    first = records[ADAPTER]
    for name, anchor in first.anchors.items():
        floor, real = anchor["floor"], anchor["ceiling"]
        tuned = [records[design].metrics.get(name) for design in (ADAPTER, "full")]
        if floor is not None and real is not None and None not in tuned and name not in OTHERWISE:
            shares = [(value - floor) / (real - floor) for value in tuned if value is not None]
            good = all(0 < share <= 1 + tolerance for share in shares)
            well &= good
            verdict = "right" if good else "WRONG"
        else:
            verdict = OTHERWISE.get(name, "not comparable")
        cells = [floor, *tuned, real]
        lines.append(f"| {name} | {' | '.join('-' if c is None else f'{c:.4g}' for c in cells)} | {verdict} |")
    return lines, well


if __name__ == "__main__":
    sys.exit(main())
