"""The report of a study: one self-contained page, with every figure and table also as a file."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path

import pandas as pd

from analysis.comparisons.family import FAMILIES
from analysis.comparisons.family import family as test_family
from analysis.conclusions.floor import own_floors
from analysis.conclusions.joint import ADJUSTED_FOR
from analysis.figures.style import STYLES, drawn_for, for_paper
from analysis.report.first_screen import facts, headline
from analysis.report.page import Opening, Section, render
from analysis.report.raced import race_conclusion
from analysis.report.study import Study, read_study
from analysis.report.words import listing, number
from analysis.runs.direction import directions
from analysis.runs.load_wandb import PREFIX
from analysis.runs.names import outer
from analysis.runs.records import FIRST
from sdpet.files.terminal import counted


@dataclass(frozen=True)
class Report:
    """Where the page is, and the sentences that it opens with.

    notes: what was left out or is in doubt, and how far the study is. choices: what was analysed, asked for or guessed.
    headline: the conclusion in one sentence, without its tests.
    """

    page: Path
    conclusion: list[str]
    notes: list[str] = field(default_factory=list)
    choices: str = ""
    headline: str = ""


def write_report(
    source: str | Path,
    metric: str | None = None,
    factors: Sequence[str] | None = None,
    compare: str | Path | None = None,
    out: str | Path | None = None,
    model: str | None = None,
    scores: str = FIRST,
    *,
    block: str | None = None,
    maximize: bool | None = None,
    type: int = 2,
    random: Sequence[str] = (),
    within: float | None = None,
    family: str = "terms",
    style: str = "screen",
) -> Report:
    """Write `out/index.html`, `out/figures` and `out/tables` for a study folder or a CSV.

    metric: the score to analyse; factors: the columns to test; model: both together with the terms of the joint model,
    as "clip_i ~ din * dout". compare: a second study (default: the paper's heatmap where placements can be compared).
    within: a margin of the score; then the page says which designs are within it of the best.
    scores: which scores of the runs, as in `analysis.load_results`. out: default `report` in the study's folder; for a
    CSV `outputs/<name>/report`, for W&B `outputs/wandb-<name>/report`. block: a column that is taken out first instead
    of the seed, or "none". maximize: whether the larger score is the better one (default: by the score's name).
    type: of the sums of squares of the joint model, 1, 2 or 3. random: grouping terms with random effects, such as
    "seed" or "seed:model"; a mixed model of them is added. family: over which tests p values are adjusted, "terms",
    "scores" or "none", see `analysis.comparisons.family`. style: "paper" draws the figures as wide as a column or the
    text of a paper, in its font and as PDF too; the default of out is then `report-paper`.
    Raises ValueError, with one sentence that names the choices, when there is nothing to report on.
    """
    if type not in (1, 2, 3):
        raise ValueError(f"type is {type!r}; choose 1, 2 or 3.")
    if family not in FAMILIES:
        raise ValueError(f"family is {family!r}; choose {', '.join(FAMILIES)}.")
    if style not in STYLES:
        raise ValueError(f"style is {style!r}; choose {', '.join(STYLES)}.")
    study = read_study(source, metric, factors, model, scores, block, maximize, within, family)
    upward = study.choices.asked.maximize  # as asked or as registered
    with (
        directions({} if upward is None else {study.metric: upward}),
        test_family(family, len(study.metrics)),
        drawn_for(style),
    ):
        again = _command(source, metric, factors, model, compare, scores, block, maximize, type, random, within, family)
        again += f" --style {style}" if style != "screen" else ""
        return _write(study, source, compare, out, again, type, random)


def _command(
    source: str | Path, metric: str | None, factors: Sequence[str] | None, model: str | None,
    compare: str | Path | None, scores: str, block: str | None, maximize: bool | None, type: int,
    random: Sequence[str], within: float | None, family: str,
) -> str:  # fmt: skip
    """The command that makes this report again."""
    words = ["python -m analysis", str(source)]
    words += ["--metric", metric] if metric else []
    words += ["--factors", ",".join(f"`{f}`" if "," in f else f for f in factors)] if factors else []
    words += ["--model", model] if model else []
    words += ["--block", block] if block else []
    words += [] if maximize is None else ["--maximize" if maximize else "--minimize"]
    words += ["--type", str(type)] if type != 2 else []
    words += ["--random", ",".join(random)] if random else []
    words += ["--compare", str(compare)] if compare else []
    words += ["--scores", scores] if scores != FIRST else []
    words += [] if within is None else ["--within", f"{within:g}"]
    words += ["--family", family] if family != "terms" else []
    return " ".join([words[0], *(shlex.quote(word) for word in words[1:])])


def _write(
    study: Study, source: str | Path, compare: str | Path | None, out: str | Path | None, command: str, type: int,
    random: Sequence[str],
) -> Report:  # fmt: skip
    from analysis.report import pictures
    from analysis.report.sections import costs, details
    from analysis.report.sections.cells import heatmap_section
    from analysis.report.sections.claimed import claims_section
    from analysis.report.sections.compare import compare_section
    from analysis.report.sections.effects import assumptions_section, levels_section
    from analysis.report.sections.factors import factors_section
    from analysis.report.sections.means import concluded, conclusion, design_means, score_digits
    from analysis.report.sections.mixed import mixed_section
    from analysis.report.sections.noise import noise_section
    from analysis.report.sections.race import race_section, race_tests
    from analysis.report.sections.ranking import beside_section, ranking_section
    from analysis.report.sections.registered import registered_section
    from analysis.report.sections.varying.settings import settings_section
    from analysis.report.sections.varying.subjects import subjects_section

    own = "report-paper" if for_paper() else "report"
    if out is not None:
        folder = Path(out)
    elif study.source.is_dir():
        folder = study.source / own
    else:
        of_wandb = str(source).startswith(PREFIX)  # not among the files of a study of that name here
        folder = Path("outputs") / (f"wandb-{study.source.name}" if of_wandb else study.source.stem) / own
    folder.mkdir(parents=True, exist_ok=True)

    if type != 2 and len(study.model_terms) > 1:
        study.notes.append(
            f"Every test of the joint model is of type {'I' * type} (--type): {ADJUSTED_FOR[type]}. Which pairs of "
            "factors the model holds, means, trends and the set of the best do not depend on the type."
        )
    tests = race_tests(study) if study.raced else pd.DataFrame()
    if study.raced and study.metric == study.raced.stored.score:
        claimed = race_conclusion(study.raced, study.fresh, tests)
    else:
        claimed = concluded(study, type)
    said = conclusion(study, claimed)
    means = design_means(study)
    several = len(means) > 1
    order = list(zip(means["design"], means["mean"], strict=True))
    digits = score_digits(study)
    samples = pictures.samples_section(study, folder, order, digits)
    grid = heatmap_section(study, means, folder) if several else None
    ranked = ranking_section(study, means, folder) if several else None
    lead = grid or ranked  # what the samples of the best stand beside
    if lead is not None:
        lead = replace(lead, beside=pictures.best_samples(samples))
    sections = [
        lead,
        race_section(study, tests, folder),
        factors_section(study, folder, type) if several else None,
        mixed_section(study, folder, random),
        subjects_section(study, folder),
        ranked if grid else None,
        levels_section(study, folder, type) if several else None,
        claims_section(study, claimed, folder, type) if several else None,
        registered_section(study, folder) if several else None,
        beside_section(study, means, folder) if len(means) else None,
        samples,
        noise_section(study, folder, order),
        compare_section(study, means, compare, folder),
        settings_section(study, folder),
        costs.costs_section(study, folder, means),
        costs.sizes_section(study, folder),
        details.training_section(study, folder, [design for design, _ in order]),
        details.failures_section(study, folder),
        assumptions_section(study, folder, type) if several else None,
        details.protocol_section(study, folder),
        details.reproduce_section(study, command),
    ]
    opening = Opening(
        kicker=f"{_title(study)} · {study.source} · {counted(len(study.done), 'run')} · {date.today().isoformat()}",
        headline=headline(study, claimed, means),
        facts=facts(study, claimed, means, digits),
        notes=study.notes,
        conclusion=said,
        choices=study.choices.said,
        about=_about(study, digits),
    )
    html = render(
        title=f"{study.name}: {_title(study)}",
        opening=opening,
        sections=[section for section in sections if isinstance(section, Section)],
        colophon=f"Made by python -m analysis. Every figure is also in {folder.name}/figures, every table in "
        f"{folder.name}/tables.",
    )
    page = folder / "index.html"
    page.write_text(outer(html), encoding="utf-8")
    sentences = [outer(sentence) for sentence in said]
    return Report(page, sentences, study.notes, study.choices.said, outer(opening.headline))


def _title(study: Study) -> str:
    if study.is_of_placements:
        return "Which adapter position matters?"
    return "Which factor matters?" if study.factors else "One design, scored"


def _about(study: Study, digits: int) -> list[tuple[str, str]]:
    """The study in a line: what was run and what was measured."""
    facts = [("study", study.name), ("score", study.words.label)]
    designs = study.done[study.design].nunique() if study.design in study.done else 0
    if designs:
        facts.append(("designs", str(designs)))
    if study.seeds:
        few = len(study.seeds) < 6
        facts.append(("seeds", listing(str(s) for s in study.seeds) if few else str(len(study.seeds))))
    all_there = len(study.done) == len(study.runs)
    facts.append(("runs", str(len(study.done)) if all_there else f"{len(study.done)} of {len(study.runs)}"))
    if "seconds_total" in study.done and study.done["seconds_total"].notna().any():
        facts.append(("compute", _duration(float(study.runs["seconds_total"].sum()))))
    floor, ceiling = study.mean_anchor("floor"), study.mean_anchor("ceiling")
    if floor == floor:
        several = own_floors(study.done, study.metric, study.design, study.block)
        facts.append((f"{'mean ' if several else ''}floor (base model)", number(floor, digits)))
    if ceiling == ceiling:
        facts.append(("ceiling", number(ceiling, digits)))
    return facts


def _duration(seconds: float) -> str:
    if seconds > 5400:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.0f} min" if seconds > 90 else f"{seconds:.0f} s"
