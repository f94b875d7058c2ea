"""Makes the reports of the gallery from stored tables of runs: `python docs/gallery.py build/site/gallery`."""

from __future__ import annotations

import sys
from pathlib import Path

from analysis.report import write_report

ROOT = Path(__file__).resolve().parent.parent
# report: the table of its runs
STUDIES = {
    "placement": "docs/results/placement.csv",
    "placement_five_seeds": "notebooks/lab_placement.csv",
    "placement_dit": "docs/results/placement_dit.csv",
    "placement_dit_without_pooled": "docs/results/placement_dit_without_pooled.csv",
    "backbones": "docs/results/backbones.csv",
    "depth": "docs/results/depth.csv",
    "subjects": "docs/results/subjects.csv",
    "finetuning": "docs/results/finetuning.csv",
    "finetuning_dit": "docs/results/finetuning_dit.csv",
    "atlas": "docs/results/atlas.csv",
    "atlas_dit": "docs/results/atlas_dit.csv",
    "atlas_finetune": "docs/results/atlas_finetune.csv",
    "atlas_finetune_dit": "docs/results/atlas_finetune_dit.csv",
    "lowrank": "docs/results/lowrank.csv",
    "methods_tuned": "docs/results/methods_tuned.csv",
    "method_rates": "docs/results/method_rates.csv",
    "noise_range": "docs/results/noise_range.csv",
    "paper_widths": "docs/results/paper_widths.csv",
    "paper": "analysis/data/xiang2023_dreambooth_heatmap.csv",
}


def main(out: Path) -> None:
    """Write one report for each table."""
    for name, table in STUDIES.items():
        page = write_report(ROOT / table, out=out / name).page
        print(f"{name}: {page}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
