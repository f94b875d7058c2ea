"""`python -m analysis STUDY_OR_CSV`: the report of a study. Heavy imports wait until the arguments are read."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from sdpet.files.command_parser import CommandParser
from sdpet.files.terminal import print_in_any_encoding

EXAMPLE = """\
example:
  python -m analysis outputs/placement
  python -m analysis outputs/placement --metric clip_t --factors din,dout
  python -m analysis outputs/form --model "clip_i ~ activation * scale"
  python -m analysis runs.csv --metric val_loss --minimize --factors optimizer,lr --block fold
  python -m analysis outputs/placement --compare outputs/other
  python -m analysis outputs/placement --scores eval=lab_full --metric judge_i
  python -m analysis wandb:me/sdpet/placement
  python -m analysis outputs/placement --live                 (the page while the study runs)
  python -m analysis power outputs/placement --effect 0.05    (how many seeds that takes)
  python -m analysis analysis/data/xiang2023_dreambooth_heatmap.csv --out paper-report

"""


def parser() -> CommandParser:
    """The command's arguments."""
    p = CommandParser(
        "python -m analysis",
        example=EXAMPLE,
        description="Say which factor of a study matters: one HTML page with tests, figures and samples, and every "
        "table as CSV and LaTeX, every figure as SVG and PNG.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument(
        "study",
        metavar="STUDY",
        help="a study's folder, such as outputs/placement, a CSV file, or wandb:ENTITY/PROJECT/STUDY",
    )
    p.add_argument("--metric", help="score to analyse (default: clip_i, or the likeliest column)")
    way = p.add_mutually_exclusive_group()
    way.add_argument("--maximize", action="store_true", help="larger scores are better (default: by the score's name)")
    way.add_argument("--minimize", action="store_true", help="smaller scores are better")
    p.add_argument("--factors", help="factors to test, with commas, numbers as well (default: all that vary)")
    p.add_argument(
        "--model",
        help='score and terms of the joint model, as "clip_i ~ din + dout + din:dout"; a*b is a + b + a:b; names with '
        "signs stand between backticks (default: the factors that vary, without interactions)",
    )
    p.add_argument("--block", help='column that is taken out first, or "none" (default: seed)')
    p.add_argument(
        "--type", type=int, choices=(1, 2, 3), default=2, help="sums of squares of the joint model (default: 2)"
    )
    p.add_argument(
        "--random", help="columns with random effects, with commas, as seed or subject:model: adds a mixed model"
    )
    p.add_argument(
        "--family",
        choices=("terms", "scores", "none"),
        default="terms",
        help="over which tests p values are adjusted: the terms of the model (Holm), these in all scores of the page "
        "(Holm, times the scores), or none (default: terms)",
    )
    p.add_argument("--compare", metavar="OTHER", help="a second study or CSV (default: the paper's heatmap)")
    p.add_argument(
        "--scores",
        metavar="WHICH",
        default="first",
        help="scores of the runs: first (those they ended with), last (the latest that evaluate.py added), or what it "
        'was asked for, as "eval=lab_full" or "eval=paper sampler.guidance=4"',
    )
    p.add_argument(
        "--within",
        metavar="MARGIN",
        type=float,
        help="say which designs are within this margin of the best, in units of the score",
    )
    p.add_argument(
        "--style",
        choices=("screen", "paper"),
        default="screen",
        help="paper: figures as wide as a column or the text of a paper, in its font and as PDF too, below "
        "STUDY/report-paper (default: screen)",
    )
    p.add_argument("--out", metavar="FOLDER", help="where the report goes (default: STUDY/report)")
    p.add_argument(
        "--live",
        action="store_true",
        help="serve the page on this machine only, and renew it as runs end, until Ctrl-C",
    )
    p.add_argument("--port", type=int, default=0, help="with --live: the port on 127.0.0.1 (default: a free one)")
    p.add_argument("--quiet", action="store_true", help="print nothing but errors")
    return p


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the report; returns 0, or 1 with one sentence on stderr when that cannot be done."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["power"]:
        from analysis import power_command

        return power_command.main(given[1:])
    print_in_any_encoding()
    asked = parser().parse_args(given)
    try:
        from analysis.report import Report, write_report
        from analysis.runs.names import split_names

        if asked.model and (asked.metric or asked.factors):
            raise ValueError("--model names the score and the factors; leave --metric and --factors out.")

        def write() -> Report:
            return write_report(
                asked.study, asked.metric, split_names(asked.factors or "") or None, asked.compare, asked.out,
                asked.model, asked.scores, block=asked.block,
                maximize=True if asked.maximize else False if asked.minimize else None, type=asked.type,
                random=split_names(asked.random or ""), within=asked.within, family=asked.family,
                style=asked.style,
            )  # fmt: skip

        if asked.live:
            from analysis.live import serve

            serve(Path(asked.study), lambda: write().page, asked.port, _say_where)
            return 0
        report = write()
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if not asked.quiet:
        print("\n".join([report.conclusion[0], *report.notes, *report.conclusion[1:], report.choices]))
        print(f"\nReport: {report.page}")
    return 0


def _say_where(url: str) -> None:
    print(f"The report, renewed as runs end: {url}\nCtrl-C ends it.", flush=True)


if __name__ == "__main__":
    sys.exit(main())
