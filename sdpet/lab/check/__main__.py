"""Examples: python -m sdpet.lab.check
          python -m sdpet.lab.check unet=lab_dit unet.pooled=false

Measures whether the lab is good enough for experiments. Prints a table of five gates; the exit status is 0 only if all
of them pass. Gates 1 to 3 test the networks (a minute). Gates 4 and 5 test a study of all placements (20 of the UNet,
16 of the transformer) and of full fine-tuning with 5 seeds (--seeds); runs that are missing in its folder are trained
first (about 20 minutes on 2 cores).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from sdpet.lab.check.models import CHECKED
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
        "model", nargs="*", help="the base model: unet=lab (default), or unet=lab_dit [unet.pooled=false]"
    )
    parser.add_argument(
        "--study", type=Path, help="folder of the study of gates 4, 5 (default: outputs/lab_check and the model's name)"
    )
    parser.add_argument("--seeds", type=int, default=5, help="seeds of each design in gates 4 and 5, at least 2")
    parser.add_argument("--networks-only", action="store_true", help="gates 1 to 3 only")
    parser.add_argument("--grid", type=Path, help="also write the judged samples of gate 3 to this PNG")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    arguments = parser.parse_args()

    from sdpet.lab.check import networks, study

    try:
        lab = CHECKED[tuple(sorted(arguments.model))]
    except KeyError:
        known = " or ".join(" ".join(words) for words in CHECKED if words)
        parser.error(f"the lab has the models {known}, not {' '.join(arguments.model)}")
    if arguments.seeds < 2:
        parser.error(f"--seeds must be at least 2, not {arguments.seeds}")
    rows = networks.autoencoder() + networks.scorer() + networks.base_model(lab, arguments.grid)
    if not arguments.networks_only:
        folder = (arguments.study or Path("outputs") / lab.study).resolve()
        study.run_study(lab, folder, arguments.quiet, arguments.seeds)
        done = study.Study(lab, folder, arguments.seeds)
        rows += study.personalisation(done) + study.meaning(done)
    print(table(rows))
    return int(any(row.passed is False for row in rows))


if __name__ == "__main__":
    sys.exit(main())
