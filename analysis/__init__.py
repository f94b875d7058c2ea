"""Statistics of a study: which factor matters, how sure, by how much, which design is best, and what is left to learn.

Works on a pandas frame with one row a run, from any source, and never imports torch. Public functions, by question:

    load_results(source, status="finished")                       a study folder, a CSV, W&B or a frame; one row a run
    load_image_scores(source)                                     one row an image: its prompt, its noise, its scores
    load_paper_heatmap()                                          the paper's 20 placements, one value each
    factor_columns(frame), metric_columns(frame)                  which columns vary as factors / hold scores

    anova(frame, metric, terms, type=2, block=None, numeric=())   the table of an analysis of variance
    oneway(frame, metric, factors)                                one row a factor, as in the paper's figure
    components(frame, factors)                                    the unconnected parts of an incomplete design
    block_of(frame, factor), designs(frame, factors)              the seed as a block; a name for each run's design
    effect_sizes(F, df1, df2, n), effect_interval(F, df1, df2)    eta2, omega2, ... with noncentral F intervals
    marginal_means(frame, metric, factor, terms=None, block=None, over="grid")   index level; mean se df low high n
    contrasts(frame, metric, factor, method="pairwise", terms=None, block=None)  estimable differences only

    verdicts(frame, metric, terms, block=None)                    F beside tests that assume less, Holm over the terms
    best_set(frame, metric, factor, maximize=True)                Hsu: the levels that cannot be told from the best
    race(frame, metric, d, design="placement", block="seed")      the best within d, judged at fixed looks
    Race(designs, d)                                              the same run by run: ask() for runs, tell() scores
    equivalence(frame, metric, factor, within)                    pairs of levels: equal within a margin, or undecided
    tukey(...), games_howell(...), dunnett(..., baseline=...)     after the test
    letters(pairs), adjust(p, method="holm")                      compact letters; Holm, Benjamini-Hochberg
    welch(...), kruskal(...), friedman(...), permutation(...), wild_bootstrap(...), robust_anova(...),
    aligned_ranks(...)                                            robust companions
    check_assumptions(frame, metric, terms), residuals(frame, metric, terms)            with sentences
    mixed(frame, metric, fixed, random, df="satterthwaite")       random seeds, subjects, tasks
    strata(frame, metric, terms, error), repeated_measures(frame, metric, within, subject)
    power(...), runs_needed(...), detectable(frame, metric, factor), runs_to_tell(frame, metric, factor, difference)
    seeds_needed(frame, metric, factor, effect)                   from a pilot: seeds that detect a difference
    choose(frame, size, terms), estimable(frame, terms)           a D-optimal fraction; what given runs can estimate
    rank_agreement(frame, by, metrics, split=None), pareto(frame, objectives, by), anova_all(frame, metrics, terms)
    trends(frame, metric, factor)                                 linear, quadratic, ... parts of a numeric factor
    surface(frame, metric, [a, b])                                two numeric factors together: curvature and optimum
    contrasts(..., method="steps")                                levels in order: steps, cuts and Helmert contrasts
    sphericity(frame, metric, terms, block)                       Greenhouse-Geisser and Huynh-Feldt, term by term
    importance(frame, metric, factors)                            random-forest fANOVA, for orientation
    conclude(frame, metric, factor=None)                          the first paragraph of a report, and its claims

Every frame returned carries `.attrs["notes"]`: sentences a reader must see (rows dropped, terms not estimable).
"""

from __future__ import annotations

import importlib
from typing import Any

# No module is named like a public function: importing it would put the module in the place of the function.
_MODULE_OF = {
    "load_results": "runs.load",
    "load_image_scores": "runs.images.load",
    "load_paper_heatmap": "runs.load",
    "factor_columns": "runs.load",
    "metric_columns": "runs.load",
    "anova": "variance.table",
    "oneway": "variance.table",
    "components": "linear_model.design",
    "parse_model": "linear_model.design",
    "interactions": "linear_model.design",
    "effect_sizes": "variance.effect_size",
    "effect_interval": "variance.effect_size",
    "marginal_means": "comparisons.means",
    "contrasts": "comparisons.means",
    "trends": "variance.trend",
    "surface": "variance.surface",
    "Surface": "variance.surface",
    "sphericity": "variance.sphericity",
    "tukey": "comparisons.posthoc",
    "games_howell": "comparisons.posthoc",
    "dunnett": "comparisons.posthoc",
    "best_set": "comparisons.posthoc",
    "equivalence": "comparisons.posthoc",
    "letters": "comparisons.multiplicity",
    "adjust": "comparisons.multiplicity",
    "Conclusion": "conclusions.claims",
    "Claim": "conclusions.claims",
    "verdicts": "variance.verdict",
    "welch": "variance.robust",
    "kruskal": "variance.robust",
    "permutation": "variance.robust",
    "wild_bootstrap": "variance.signs",
    "friedman": "variance.robust",
    "robust_anova": "variance.robust",
    "aligned_ranks": "variance.robust",
    "check_assumptions": "variance.assumptions",
    "residuals": "variance.assumptions",
    "mixed": "variance.mixed_model",
    "repeated_measures": "variance.error_strata",
    "strata": "variance.error_strata",
    "power": "planning.sample_size",
    "runs_needed": "planning.sample_size",
    "detectable": "planning.sample_size",
    "runs_to_tell": "planning.sample_size",
    "seeds_needed": "planning.sample_size",
    "choose": "planning.fraction",
    "estimable": "planning.fraction",
    "higher_is_better": "runs.load",
    "rank_agreement": "explore.metrics",
    "pareto": "explore.metrics",
    "anova_all": "explore.metrics",
    "importance": "explore.random_forest",
    "block_of": "linear_model.blocks",
    "conclude": "conclusions.conclude_runs",
    "designs": "conclusions.joint",
    "race": "sequential.races",
    "Race": "sequential.races",
    "RaceResult": "sequential.result",
}

__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> Any:
    """Import the module of a public name when it is first used, so that `import analysis` is quick (PEP 562)."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'analysis' has no attribute {name!r}; it has {', '.join(sorted(_MODULE_OF))}")
    value = getattr(importlib.import_module(f"analysis.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULE_OF])
