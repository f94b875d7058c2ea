"""The command `sdpet`: what is neither training nor analysis. Thin: each part is also a module of its own."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Sequence

EXAMPLE = """example: sdpet doctor

commands:
  sdpet doctor         is all there that a study needs?
  sdpet lab check      measure the lab (VAE, scorer, base model) against its gates
  sdpet lab pretrain   make the lab's weights anew (hours)

Training and analysis: python train.py --help, python evaluate.py --help, python -m analysis --help
"""
LAB = {"check": "sdpet.lab.check", "pretrain": "sdpet.lab.pretrain"}


def main(arguments: Sequence[str] | None = None) -> None:
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(
        "sdpet", description=EXAMPLE, usage=argparse.SUPPRESS, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=["doctor", "lab"], help=argparse.SUPPRESS)
    parser.add_argument("rest", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    if not given or given[0] in ("-h", "--help"):
        print(EXAMPLE, end="")
        return
    options = parser.parse_args(given)
    if options.command == "doctor":
        from sdpet.study.doctor import doctor

        sys.exit(0 if doctor() else 1)
    _lab(options.rest)


def _lab(rest: list[str]) -> None:
    """Hand over to a module of the lab, with the options that follow."""
    if not rest or rest[0] not in LAB:
        helped = bool(rest) and rest[0] in ("-h", "--help")
        text = f"example: sdpet lab check; choose one of {', '.join(LAB)}."
        print(text, file=sys.stdout if helped else sys.stderr)
        sys.exit(0 if helped else 2)
    module = LAB[rest[0]]
    if importlib.util.find_spec(module) is None:
        sys.exit(f"error: this installation lacks {module}.")
    import runpy

    sys.argv = [f"sdpet lab {rest[0]}", *rest[1:]]
    runpy.run_module(module, run_name="__main__", alter_sys=False)


if __name__ == "__main__":
    main()
