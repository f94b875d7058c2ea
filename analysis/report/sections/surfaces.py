"""Two numeric factors together: the fitted surface, its coefficients, and where it is level."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.conclusions.trends import is_numeric, over_logarithm
from analysis.figures.style import save
from analysis.figures.surface import POINTS, contours
from analysis.linear_model.units import strata_of
from analysis.report.page import Block, FigureBlock, TableBlock, Text
from analysis.report.study import Study
from analysis.report.tables import Column, make_table
from analysis.report.words import factor_words, listing, number, p_cell, p_words
from analysis.variance.surface import Surface, surface
from analysis.variance.verdict import ALPHA


def surface_blocks(study: Study, terms: Sequence[str], out: Path) -> list[Block]:
    """The surface over the two numeric factors with most levels; nothing where there are no two, or no surface."""
    runs = study.modelled
    numeric = sorted((f for f in terms if ":" not in f and is_numeric(runs, f)), key=lambda f: -runs[f].nunique())
    if len(numeric) < 2 or len(strata_of(runs, study.metric, list(terms), study.block)) > 1:
        return []
    for pair in combinations(numeric, 2):
        try:
            found = surface(
                runs, study.metric, pair, terms, block=study.block, log=[f for f in pair if over_logarithm(runs[f])]
            )
        except ValueError:
            continue
        return [Text(_said(study, found)), _figure(study, found, out), _table(study, found, out)]
    return []


def _said(study: Study, found: Surface) -> str:
    first, second = found.factors
    better = "maximum" if study.higher_is_better else "minimum"
    said = f"A surface of the second degree over {factor_words(first)} and {factor_words(second)} "
    where = f"{first} {number(found.stationary[0])}, {second} {number(found.stationary[1])}"
    if found.kind == "ridge":
        said += "is a ridge, so it has no single best point. "
    elif found.kind == "saddle":
        said += f"has a saddle at {where}: the best lies on the edge of what was tried. "
    elif found.kind != better:
        said += f"has its {found.kind} at {where}, the worst of it: the best lies on the edge of what was tried. "
    elif found.inside:
        said += f"has its {found.kind} at {where}, within what was tried. "
    else:
        said += f"would have its {found.kind} at {where}, outside of what was tried, where nothing supports it. "
    more = ["the other factors"] if len([t for t in study.terms if study.modelled[t].nunique() > 1]) > 2 else []
    beside = listing([*([f"the {study.block}"] if study.block else []), *more])
    said += f"It explains {found.r2:.0%} of the variance{f', with {beside}' if beside else ''}. "
    lack = found.lack_of_fit
    if not lack:
        said += "Without replicates nothing tells whether it fits."
    elif lack["p"] < ALPHA:
        said += (
            f"It does not fit: the cells differ from it by more than their runs do (lack of fit, F({lack['df']:.0f}, "
            f"{lack['df_residual']:.0f}) = {lack['F']:.2f}, {p_words(lack['p'])}), so its best point "
            "is not to be trusted."
        )
    else:
        said += (
            f"Nothing shows that it does not fit (lack of fit, F({lack['df']:.0f}, {lack['df_residual']:.0f}) = "
            f"{lack['F']:.2f}, {p_words(lack['p'])})."
        )
    return said + " The point is an estimate without an interval; a run at it is what confirms it."


def _figure(study: Study, found: Surface, out: Path) -> FigureBlock:
    first, second = found.factors
    axes = []
    for i, _ in enumerate(found.factors):
        edge = np.linspace(found.center[i] - found.half[i], found.center[i] + found.half[i], POINTS)
        axes.append(np.exp(edge) if found.log[i] else edge)
    fitted = found.at(axes[0][None, :], axes[1][:, None])
    means = study.modelled.groupby([first, second])[study.metric].mean()
    cells = [(float(a), float(b), float(v)) for (a, b), v in means.items()]  # type: ignore[misc]
    data = pd.DataFrame(cells, columns=[first, second, study.metric])
    data["fitted"] = [float(found.at(np.array(a), np.array(b))) for a, b, _ in cells]
    drawing = save(
        contours(fitted, axes[0], axes[1], cells, found.log, found.stationary if found.inside else None,
                 factor_words(first), factor_words(second), study.words.axis, study.higher_is_better),
        "surface", out / "figures", data,
    )  # fmt: skip
    caption = (
        f"{study.words.label} fitted over {factor_words(first)} and {factor_words(second)}; circles: means of the "
        "runs of a cell, in the same colours, so that one that stands out from its ground is not fitted well."
    )
    caption += " Cross: where the surface is level." if found.inside else ""
    return FigureBlock(drawing, caption, f"Surface of {study.words.label} over {first} and {second}")


def _table(study: Study, found: Surface, out: Path) -> TableBlock:
    frame = found.table.reset_index()
    names = [f"{f} (its logarithm)" if log else f for f, log in zip(found.factors, found.log, strict=True)]
    scale = " and ".join(names)
    caption = (
        f"Coefficients of the surface of {study.words.label}. {scale} are coded from \N{MINUS SIGN}1 to 1 over what "
        "was tried; t by the residual of this model, p not adjusted."
    )
    return TableBlock(make_table("surface", caption, frame, {
        "term": Column("term", lambda v: str(v).replace("^2", "²").replace(":", " × "), numeric=False),
        "estimate": Column("coefficient", number),
        "se": Column("standard error", number),
        "t": Column("t", lambda v: number(v, 2)),
        "df": Column("residual df", lambda v: number(v, 0)),
        "p": Column("p", lambda v: p_cell(float(str(v)))),
    }, out / "tables", folded=True))  # fmt: skip
