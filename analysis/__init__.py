"""Statistics of a study: which factor matters, how sure, by how much, which design is best, and what is left to learn.

Works on a pandas frame with one row a run, from any source, and never imports torch. Public functions, by question:

    load_results(source, status="finished")                       a study folder, a CSV, W&B or a frame; one row a run
    load_paper_heatmap()                                          the paper's 20 placements, one value each
    factor_columns(frame), metric_columns(frame)                  which columns vary as factors / hold scores

    anova(frame, metric, terms, type=2, block=None, numeric=())   the table promised in DESIGN.md
    oneway(frame, metric, factors)                                one row a factor, as in the paper's figure
    components(frame, factors)                                    the unconnected parts of an incomplete design
    effect_sizes(F, df1, df2, n), effect_interval(F, df1, df2)    eta2, omega2, ... with noncentral F intervals
    marginal_means(frame, metric, factor, terms=None, block=None, over="grid")   index level; mean se df low high n
    contrasts(frame, metric, factor, method="pairwise", terms=None, block=None)  estimable differences only

    verdicts(frame, metric, terms, block=None)                    F beside tests that assume less, Holm over the terms
    best_set(frame, metric, factor, maximize=True)                Hsu: the levels that cannot be told from the best
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
    importance(frame, metric, factors)                            random-forest fANOVA, for orientation
    conclude(frame, metric, factor=None)                          the first paragraph of a report, and its claims

Every frame returned carries `.attrs["notes"]`: sentences a reader must see (rows dropped, terms not estimable).
"""

from __future__ import annotations

import importlib
from typing import Any

# No module is named like a public function: importing it would put the module in the place of the function.
_MODULE_OF = {
    "load_results": "load",
    "load_paper_heatmap": "load",
    "factor_columns": "load",
    "metric_columns": "load",
    "anova": "anova_table",
    "oneway": "anova_table",
    "components": "design",
    "parse_model": "design",
    "interactions": "design",
    "effect_sizes": "effects",
    "effect_interval": "effects",
    "marginal_means": "means",
    "contrasts": "means",
    "trends": "trend",
    "tukey": "posthoc",
    "games_howell": "posthoc",
    "dunnett": "posthoc",
    "best_set": "posthoc",
    "equivalence": "posthoc",
    "letters": "multiplicity",
    "adjust": "multiplicity",
    "verdicts": "verdict",
    "welch": "robust",
    "kruskal": "robust",
    "permutation": "robust",
    "wild_bootstrap": "robust",
    "friedman": "robust",
    "robust_anova": "robust",
    "aligned_ranks": "robust",
    "check_assumptions": "assumptions",
    "residuals": "assumptions",
    "mixed": "mixed_model",
    "repeated_measures": "error_strata",
    "strata": "error_strata",
    "power": "sample_size",
    "runs_needed": "sample_size",
    "detectable": "sample_size",
    "runs_to_tell": "sample_size",
    "seeds_needed": "sample_size",
    "choose": "fraction",
    "estimable": "fraction",
    "higher_is_better": "load",
    "rank_agreement": "metrics",
    "pareto": "metrics",
    "anova_all": "metrics",
    "importance": "forest",
    "conclude": "conclusion",
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
