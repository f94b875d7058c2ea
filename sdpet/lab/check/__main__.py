"""Example: python -m sdpet.lab.check

Measures whether the lab is good enough for experiments. Prints a table of five gates; the exit status is 0 only if all
of them pass. Gates 1 to 3 test the networks (a minute). Gates 4 and 5 test a study of all 20 placements and of full
fine-tuning with 5 seeds; runs that are missing in its folder are trained first (about 20 minutes on 2 cores).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from sdpet.lab.check.rows import table


def main() -> int:
    """Print the table of gates.

    Returns
    -------
    int
        Exit status: 0 if all gates pass, else 1.
    """
    parser = argparse.ArgumentParser(
        "python -m sdpet.lab.check", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--study", type=Path, default=Path("outputs/lab_check"), help="folder of the study of gates 4, 5"
    )
    parser.add_argument("--networks-only", action="store_true", help="gates 1 to 3 only")
    parser.add_argument("--grid", type=Path, help="also write the judged samples of gate 3 to this PNG")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    arguments = parser.parse_args()

    from sdpet.lab.check import networks, study

    rows = networks.autoencoder() + networks.scorer() + networks.base_model(arguments.grid)
    if not arguments.networks_only:
        folder = arguments.study.resolve()
        study.run_study(folder, arguments.quiet)
        done = study.Study(folder)
        rows += study.personalisation(done) + study.meaning(done)
    print(table(rows))
    return int(any(row.passed is False for row in rows))


if __name__ == "__main__":
    sys.exit(main())
