"""`python -m sdpet.study status FOLDER`: print the status of a study."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

EXAMPLE = """\
example:
  python -m sdpet.study status outputs/placement

"""


class _Parser(argparse.ArgumentParser):
    """A parser whose help begins with an example."""

    def format_help(self) -> str:
        return EXAMPLE + super().format_help()


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the status of a study.

    Parameters
    ----------
    arguments : sequence of str, optional
        The command line; None takes sys.argv.

    Returns
    -------
    int
        0, or 1 with one sentence on stderr if there is no study.
    """
    parser = _Parser("python -m sdpet.study", description="Print the status of a study, also while it is running.")
    parser.add_argument("command", choices=["status"], help="status: progress, rate, time left, failures")
    parser.add_argument("study", type=Path, help="a study's folder, such as outputs/placement")
    asked = parser.parse_args(arguments)
    from sdpet.study.status import status_text, study_status

    try:
        print(status_text(study_status(asked.study)))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
