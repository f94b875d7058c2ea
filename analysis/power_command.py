"""`python -m analysis power STUDY --effect E`: how many seeds a study needs, by the spread of a pilot."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from sdpet.files.command_parser import CommandParser
from sdpet.files.terminal import counted

EXAMPLE = """\
example:
  python -m analysis power outputs/placement --metric clip_i --effect 0.05

"""


def parser() -> CommandParser:
    p = CommandParser(
        "python -m analysis power",
        example=EXAMPLE,
        description="How many seeds detect a difference of EFFECT between two levels of a factor, judged by the spread "
        "that a finished study leaves unexplained, and the smallest difference that this study itself can detect.",
    )
    p.add_argument(
        "study", metavar="STUDY", help="the pilot: a study's folder, such as outputs/placement, or a CSV file"
    )
    p.add_argument("--effect", type=float, required=True, help="the difference to detect, in units of the score")
    p.add_argument("--metric", help="score (default: clip_i, or fid where there is no clip_i)")
    p.add_argument("--factor", help="factor whose levels differ (default: each that varies)")
    p.add_argument("--power", type=float, default=0.8, help="chance to detect it, between 0 and 1 (default: 0.8)")
    p.add_argument("--alpha", type=float, default=0.05, help="chance of a false alarm (default: 0.05)")
    return p


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the answer; returns 0, or 1 with one sentence on stderr when there is none."""
    asked = parser().parse_args(arguments)
    try:
        for name in ("power", "alpha"):
            if not 0 < getattr(asked, name) < 1:
                raise ValueError(f"--{name} must lie between 0 and 1, not {getattr(asked, name)!r}.")
        print(answer(asked.study, asked.metric, asked.factor, asked.effect, asked.power, asked.alpha))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def answer(source: str, metric: str | None, factor: str | None, effect: float, target: float, alpha: float) -> str:
    from analysis.planning.sample_size import pair_words, seeds_needed
    from analysis.report.study import read_study
    from analysis.runs.names import inner, outer

    study = read_study(source, metric, None)
    factors = [inner(factor)] if factor else study.factors
    if not factors:
        raise ValueError(f"nothing varies in {source}, so there is no effect to detect.")
    if unknown := [name for name in factors if name not in study.factors]:
        raise ValueError(f"Unknown factor {unknown[0]!r}; the factors that vary are {', '.join(study.factors)}.")
    runs = study.modelled
    lines: list[str] = []

    def times(count: int) -> str:
        noun = study.block or ("seed" if "seed" in runs else None)
        return counted(count, noun) if noun else f"{counted(count, 'run')} of each level"

    for name in factors:
        terms = [
            name,
            *(t for t in study.terms if t != name and name not in _contained(t) and t not in _contained(name)),
        ]
        table = seeds_needed(runs, study.metric, name, effect, terms=terms, target=target, alpha=alpha)
        a = table.attrs
        if not lines:
            lines.append(
                f"{study.metric} of {len(runs)} runs, {times(a['seeds'])}: runs of one "
                f"design differ by {a['residual_sd']:.3g} (standard deviation, {a['df']:.0f} df; 80% sure: below "
                f"{a['residual_sd_high']:.3g})"
            )
        lines.append(f"{name} ({a['levels']} levels), a difference of {effect:g} with power {target:g}:")
        for test, words in (("pair", "two levels alone (t test)"), ("factor", "the factor as a whole (F test)")):
            row = table.loc[test]
            now = f"; {times(a['seeds'])} {'detects' if a['seeds'] == 1 else 'detect'} {row['detects']:.3g}"
            if row["seeds"] != row["seeds"]:
                lines.append(f"  {words:<32} more than {times(1000)}{now}")
                continue
            worst = row["seeds_at_worst"]
            worst = "over 1000" if worst != worst else f"{worst:.0f}"
            needed = times(int(row["seeds"]))
            lines.append(f"  {words:<32} {needed} (up to {worst}, as the spread is an estimate){now}")
        pairs = pair_words(table).replace(f"{a['seeds']} seeds", times(a["seeds"]))
        lines += [f"  {pairs}"] if pairs else []
    return outer("\n".join(lines))


def _contained(term: str) -> tuple[str, ...]:
    """The placement is din and dout."""
    return ("din", "dout") if term == "placement" else ()
