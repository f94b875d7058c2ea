"""`python -m sdpet.study status FOLDER` and `verify FOLDER`: how far a study is, and whether its files are whole."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from sdpet.files.command_parser import CommandParser
from sdpet.files.terminal import print_in_any_encoding

COMMANDS = ("status", "verify")
EXAMPLE = """\
example:
  python -m sdpet.study status outputs/placement
  python -m sdpet.study status --watch outputs/placement
  python -m sdpet.study verify outputs/placement

"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the status of a study, or what was changed in it.

    Parameters
    ----------
    arguments : sequence of str, optional
        The command line; None takes sys.argv.

    Returns
    -------
    int
        0, or 1 with one sentence on stderr if there is no study, and if `verify` found a problem. With --watch, see
        `sdpet.study.watch.watch`.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = CommandParser(
        " ".join(["python -m sdpet.study", *(word for word in given[:1] if word in COMMANDS)]),
        example=EXAMPLE,
        usage="python -m sdpet.study [-h] [--watch] {status,verify} STUDY",
        description="Print the status of a study, or check its files; also while it is running.",
    )
    parser.add_argument(
        "command",
        choices=COMMANDS,
        help="status: progress, rate, time left, failures; verify: files that were changed, damaged or lost",
    )
    parser.add_argument(
        "--watch",
        action="store_true",
        help="status, renewed every two seconds until every run has ended; in a pipe, a line when a run has ended",
    )
    parser.add_argument("study", metavar="STUDY", type=Path, help="a study's folder, such as outputs/placement")
    print_in_any_encoding()
    asked = parser.parse_args(given)
    if asked.watch and asked.command != "status":
        parser.error(f"--watch belongs to status, not to {asked.command}")
    from sdpet.runs.verify import verified_text, verify
    from sdpet.study.status import status_text, study_status

    try:
        if asked.command == "verify":
            found = verify(asked.study)
            print(verified_text(found))
            return 1 if found.problems else 0
        if asked.watch:
            from sdpet.study.watch import watch

            return watch(asked.study, sys.stdout)
        print(status_text(study_status(asked.study)))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
