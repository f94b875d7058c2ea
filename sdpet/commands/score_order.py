"""Example: python -m sdpet.commands.score_order

Every score that the lab can have, for the untuned base, a good adapter, full fine-tuning and real images, on both
tasks;
runs that are missing are trained first (a few minutes on 2 cores). "order" says whether both tuned models score better
than the base and no better than real images, within `--tolerance` of the way; exit status 0 only if all do.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from sdpet.runs.record import Record

PROJECT = Path(__file__).parents[2]
ADAPTER = "attn2c-attn2c"
TASKS = {"dreambooth": [], "finetune": ["task=finetune", "data=digits"]}
# Scores that tuning is not meant to bring nearer to real images, and what they are for.
OTHERWISE = {
    "clip_t": "the price of likeness",
    "prior_drift": "should stay at the base's",
    "noise_difference": "what the word has come to mean",
    "kid_deviation": "of kid",
    "recall": "poor samples have large balls; see coverage",
}


def main() -> int:
    parser = argparse.ArgumentParser(
        "python -m sdpet.commands.score_order",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--output", type=Path, default=Path("outputs"), help="where the runs are, or go")
    parser.add_argument("--tolerance", type=float, default=0.1, help="share of the way by which real may be passed")
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
    """The records of the adapter and of full fine-tuning."""
    study = f"scores_{task}"
    common = [f"study={study}", f"output_root={output}", "eval=lab_full", "quiet=true", *more]
    for adapter in (ADAPTER, "full"):
        command = [sys.executable, str(PROJECT / "train.py"), f"adapter={adapter}", *common]
        if subprocess.run(command, cwd=PROJECT, stdout=subprocess.DEVNULL).returncode:
            raise SystemExit(f"The run of {adapter} did not finish; see {output / study}.")
    found = [Record.read(path.parent) for path in sorted((output / study).glob("*/record.json"))]
    return {str(record.factors["placement"] or record.factors["method"]): record for record in found}


def table(records: dict[str, Record], tolerance: float) -> tuple[list[str], bool]:
    """Lines of a Markdown table, and whether every score that should be is in order."""
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
