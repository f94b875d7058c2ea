"""Importance of factors from a random forest, as hyperparameter tools show it; for orientation beside the tests."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from analysis.linear_model.design import factorize, require_columns, response_of


def importance(
    frame: pd.DataFrame, metric: str, factors: Sequence[str], *, trees: int = 64, repeats: int = 10, seed: int = 0
) -> pd.DataFrame:
    """Random-forest importances of factors: fANOVA main effects and permutation importance.

    fanova: the share of the forest's variance, over the combinations of levels that could be formed, that each factor's
    marginal prediction explains alone (Hutter, Hoos & Leyton-Brown, ICML 2014; what Optuna and W&B users know), by
    averaging the forest's predictions over the other factors as they occur. permutation: the loss of R^2 when the
    factor is shuffled (Breiman, Mach. Learn. 45 (2001) 5), mean and sd over `repeats`. Neither comes with a test; in an
    incomplete design the forest also predicts cells that cannot exist: `anova` decides. Largest fanova first; attrs
    hold r2_oob, the forest's R^2 on runs it did not see (near 0: the importances mean nothing).

    >>> rng = np.random.default_rng(0)
    >>> runs = pd.DataFrame({"a": list("xy") * 30, "b": list("uvw") * 20, "y": rng.normal(size=60)})
    >>> runs["y"] += runs["a"].map({"x": 0, "y": 3})
    >>> importance(runs, "y", ["a", "b"]).index.tolist()
    ['a', 'b']
    """
    from sklearn.ensemble import RandomForestRegressor

    require_columns(frame, [metric, *factors])
    if not len(factors):
        raise ValueError("Give at least one factor.")
    y, coded = response_of(frame, metric), [factorize(frame[f]) for f in factors]
    ok = np.isfinite(y) & np.all([codes >= 0 for codes, _ in coded], axis=0)
    out = pd.DataFrame(
        index=pd.Index(list(factors), name="factor"), columns=["fanova", "permutation", "sd"], dtype=float
    )
    notes = [f"{int((~ok).sum())} of {len(frame)} runs are left out: a value is missing."] if not ok.all() else []
    if ok.sum() < 5 or np.ptp(y[ok]) == 0:
        notes.append("A forest needs at least five runs and a metric that varies.")
        out.attrs = {"metric": metric, "r2_oob": float("nan"), "notes": notes}
        return out
    # One column a level: forests must not see an order where names have none.
    X = np.concatenate([np.eye(len(levels))[codes[ok]] for codes, levels in coded], axis=1)
    forest = RandomForestRegressor(trees, oob_score=True, bootstrap=True, random_state=seed, min_samples_leaf=2)
    with np.errstate(all="ignore"):
        import warnings

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # few trees: some runs are in every bootstrap sample
            forest.fit(X, y[ok])
    ends = np.cumsum([0] + [len(levels) for _, levels in coded])
    rng = np.random.default_rng(seed)
    # The factors are drawn independently of each other, each as often as its levels occur.
    draws = np.stack([rng.choice(codes[ok], 4000) for codes, _ in coded], axis=1)
    grid = np.concatenate([np.eye(len(levels))[draws[:, j]] for j, (_, levels) in enumerate(coded)], axis=1)
    predicted = forest.predict(grid)
    total = float(predicted.var())
    for j, factor in enumerate(factors):
        counts = np.bincount(draws[:, j])
        used = counts > 0
        means = np.bincount(draws[:, j], predicted)[used] / counts[used]
        share = counts[used] / counts.sum()
        out.loc[factor, "fanova"] = float(share @ (means - share @ means) ** 2 / total) if total > 0 else np.nan
        lost = []
        for _ in range(repeats):
            shuffled, order = X.copy(), rng.permutation(len(X))
            shuffled[:, ends[j] : ends[j + 1]] = X[order, ends[j] : ends[j + 1]]
            lost.append(forest.score(X, y[ok]) - forest.score(shuffled, y[ok]))
        out.loc[factor, ["permutation", "sd"]] = float(np.mean(lost)), float(np.std(lost))
    if forest.oob_score_ < 0.1:
        notes.append(
            f"The forest predicts unseen runs badly (R^2 {forest.oob_score_:.2f}): do not read its importances."
        )
    out = out.sort_values("fanova", ascending=False)
    out.attrs = {"metric": metric, "r2_oob": float(forest.oob_score_), "notes": notes}
    return out
