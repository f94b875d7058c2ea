"""The race against a second, plain implementation, quantiles of R, published tables and simulated error rates."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from study_tools import ROOT

import analysis
from analysis.linear_model.quadrature import one_factor_ppf
from analysis.sequential.expected import World, simulate
from analysis.sequential.schedule import LOOKS, critical_value

# By nested adaptive integration in R 4.2 (tests/r/dunnett.R): comparisons, df, quantile at 1 - 0.005.
R_QUANTILES = [
    (1, 9, 3.24983554), (1, 55, 2.66821599), (2, 9, 3.63308128), (2, 15, 3.25284730),
    (19, 9, 4.80027457), (19, 10, 4.62919066), (19, 15, 4.16291741), (19, 55, 3.59364613),
]  # fmt: skip
# Dunnett, J. Am. Stat. Assoc. 50 (1955) 1096, one-sided points of tables 1a (5 %, and its extension to 20 comparisons
# in textbooks) and 1b (1 %): comparisons, df, level, point.
PUBLISHED = [
    (2, 5, 0.05, 2.44), (4, 10, 0.05, 2.47), (9, 20, 0.05, 2.60), (20, 9, 0.05, 3.18), (20, 60, 0.05, 2.72),
    (4, 12, 0.01, 3.32), (7, 12, 0.01, 3.56), (2, 60, 0.01, 2.64),
]  # fmt: skip


def plain_race(table, d, alpha=0.05, looks=LOOKS):
    """The procedure in words, with loops and least squares; table: one dict of scores by level for each seed."""
    levels = list(table[0])
    racing, parked, out, used = set(levels), set(), [], dict.fromkeys(levels, 0)
    least = {pair: np.inf for pair in itertools.permutations(levels, 2)}
    leader = None
    for n in looks:
        if n > len(table):
            break
        used |= dict.fromkeys(racing, n)
        cells = [(seed, level) for level in levels for seed in range(used[level])]
        design = np.zeros((len(cells), len(levels) + n))
        for row, (seed, level) in enumerate(cells):
            design[row, levels.index(level)] = design[row, len(levels) + seed] = 1
        y = np.array([table[seed][level] for seed, level in cells])
        fitted, _, rank, _ = np.linalg.lstsq(design, y, rcond=None)
        df = len(y) - rank
        s2 = float(np.sum((y - design @ fitted) ** 2)) / df
        means = {level: np.mean([table[seed][level] for seed in range(n)]) for level in racing}
        t = one_factor_ppf(1 - alpha / 10, np.full(len(levels) - 1, 0.5**0.5), min(df, 8 + n - 1), False)
        for i, k in itertools.permutations(racing, 2):
            v = np.var([table[seed][i] - table[seed][k] for seed in range(n)], ddof=1)
            bound = means[i] - means[k] + t * ((8 * 2 * s2 + (n - 1) * v) / (8 + n - 1) / n) ** 0.5
            least[i, k] = min(least[i, k], bound)
        leader = max(racing, key=means.get)
        out += [i for i in levels if i in racing and any(least[i, k] < 0 for k in levels if k != i)]
        left = (racing | parked) - set(out)
        parked = {i for i in left if i != leader and least[i, leader] <= d}
        racing = left - parked
        if racing == {leader}:
            break
    return leader, out, parked, racing - {leader}, sum(used.values()), least


def study(rng, levels=6, seeds=16, spread=0.03, sd=0.03):
    means = rng.normal(0.5, spread, levels)
    shared = rng.normal(0, 0.05, (seeds, 1))
    noise = rng.normal(0, sd, (seeds, levels)) * rng.uniform(0.5, 2, levels)
    return [dict(zip("abcdefgh", row, strict=False)) for row in means + shared + noise]


def frame_of(table, score="clip_i", **more):
    rows = [(level, seed, value) for seed, scores in enumerate(table) for level, value in scores.items()]
    return pd.DataFrame(rows, columns=["placement", "seed", score]).assign(**more)


def test_it_decides_as_the_procedure_in_words():
    rng = np.random.default_rng(3)
    seen = dict.fromkeys(("out", "parked", "undecided", "back", "decided"), 0)
    for number in range(60):
        table = study(rng, levels=2 + number % 6, spread=(0.0, 0.02, 0.06)[number % 3])
        r = analysis.race(frame_of(table), "clip_i", d=0.02)
        leader, out, parked, undecided, runs, least = plain_race(table, 0.02)
        assert (r.leader, sorted(r.out), set(r.parked), set(r.undecided), r.runs_used) == (
            leader, sorted(out), parked, undecided, runs,
        )  # fmt: skip
        for level, row in r.bounds.iterrows():
            if level != leader:
                assert row["to_leader"] == pytest.approx(least[level, leader], rel=1e-9)
        rivals = [least[level, leader] for level in parked | undecided]
        regret = r.looks["regret"].iloc[-1]
        assert regret == pytest.approx(max([0, *rivals]), rel=1e-9) and r.decided == (regret <= r.d)
        if undecided:
            assert float(re.search(r"worse than the best by ([\d.e-]+) at most, with 95%", str(r))[1]) > r.d
        seen["out"] += len(out)
        seen["parked"] += len(parked)
        seen["undecided"] += len(undecided)
        seen["back"] += sum(map(len, r.looks["back"]))
        seen["decided"] += r.decided
    assert min(seen.values()) > 0, seen  # every kind of end was compared


@pytest.mark.parametrize(("comparisons", "df", "quantile"), R_QUANTILES)
def test_critical_values_are_those_of_r(comparisons, df, quantile):
    assert critical_value(comparisons + 1, float(df), 0.005) == pytest.approx(quantile, abs=2e-6)


@pytest.mark.parametrize(("comparisons", "df", "level", "point"), PUBLISHED)
def test_critical_values_are_those_of_published_tables(comparisons, df, level, point):
    assert critical_value(comparisons + 1, float(df), level) == pytest.approx(point, abs=0.012)


def test_run_by_run_is_as_at_once_and_asks_only_for_what_is_used():
    rng = np.random.default_rng(5)
    for _ in range(10):
        table = study(rng, seeds=48)
        held, asked = analysis.Race("abcdef", d=0.02), []
        while runs := held.ask():
            asked += runs
            half = runs[: len(runs) // 2 + 1]  # an interruption: the rest is asked for again
            held.tell({(level, seed): table[seed][level] for level, seed in half})
        by_hand, at_once = held.result(), analysis.race(frame_of(table), "clip_i", d=0.02)
        assert len(set(asked)) == by_hand.runs_used == at_once.runs_used
        pd.testing.assert_frame_equal(by_hand.looks, at_once.looks)
        pd.testing.assert_frame_equal(by_hand.bounds, at_once.bounds)
        assert str(by_hand) == str(at_once)


def test_scores_that_no_look_asked_for_play_no_part():
    table = study(np.random.default_rng(1), seeds=48, spread=0.1)
    r = analysis.race(frame_of(table), "clip_i", d=0.02)
    gone = r.bounds[r.bounds["state"] != "leader"]
    for level, row in gone.iterrows():
        for seed in range(int(row["n"]), 48):
            table[seed][level] = 99.0
    again = analysis.race(frame_of(table), "clip_i", d=0.02)
    pd.testing.assert_frame_equal(r.bounds, again.bounds)
    assert r.runs_used == int(r.bounds["n"].sum()) < 6 * 48 and (again.leader, again.out) == (r.leader, r.out)


def test_rows_out_of_order_are_told():
    """Where designs went out, a table sorted by run id may begin with a seed that only the last designs have."""
    first = [("c", 7, 0.9), ("b", 8, 0.8)]  # seeds 7 and 8 come last in time
    scores = zip("abc", (0.1, 0.8, 0.9), strict=True)
    rows = [(level, seed, score + 0.01 * seed) for level, score in scores for seed in range(3)]
    frame = pd.DataFrame(first + rows, columns=["placement", "seed", "clip_i"])
    told = analysis.race(frame, "clip_i", d=0.03)
    assert told.looks.empty and "the first two of seed, 7 and 8, lack some" in " ".join(told.notes)
    ordered = analysis.race(frame.sort_values("seed"), "clip_i", d=0.03)
    assert "a" in ordered.out and not ordered.notes


def test_smaller_is_better_by_name_or_as_said():
    table = study(np.random.default_rng(2))
    turned = [{level: 1 - value for level, value in row.items()} for row in table]
    plain = analysis.race(frame_of(table), "clip_i", d=0.02)
    for r in (
        analysis.race(frame_of(turned, "val_loss"), "val_loss", d=0.02),
        analysis.race(frame_of(turned), "clip_i", d=0.02, maximize=False),
    ):
        assert (r.leader, r.out, r.parked, r.undecided) == (plain.leader, plain.out, plain.parked, plain.undecided)
        assert r.bounds["mean"].to_numpy() == pytest.approx(1 - plain.bounds["mean"].to_numpy())


def test_a_design_that_diverges_is_out_and_looks_wait_for_missing_seeds():
    table = study(np.random.default_rng(4), levels=4, seeds=6, spread=0.0)
    frame = frame_of(table, status="finished")
    plain = analysis.race(frame, "clip_i", d=0.001)
    assert list(plain.looks.index) == [2, 3, 4, 6] and not plain.decided and not plain.over
    lost = (frame["placement"] == "b") & (frame["seed"] == 2)
    bad = frame.assign(status=frame["status"].mask(lost, "diverged"), clip_i=frame["clip_i"].mask(lost))
    r = analysis.race(bad, "clip_i", d=0.001)
    assert r.out == ["b"] and r.bounds.loc["b", "by"] == "diverged" and r.bounds.loc["b", "look"] == 3
    assert r.bounds.loc["b", "n"] == 2 and "diverged or failed: b" in str(r)
    waiting = analysis.race(frame[~lost], "clip_i", d=0.001)
    assert list(waiting.looks.index) == [2] and waiting.wanted == [("b", 2)]
    nothing = analysis.race(bad.assign(status="diverged"), "clip_i", d=0.001)
    assert nothing.leader is None and nothing.over and "no best one" in str(nothing)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"metric": "clip"}, "no column 'clip'"),
        ({"d": 0}, "above 0"),
        ({"most": 20}, "choose 2, 3, 4, 6, 8, 12, 16, 24, 32 or 48"),
        ({"alpha": 1}, "alpha must be"),
        ({"design": "task"}, "two designs"),
        ({"design": "half"}, "two rows of seed"),
    ],
    ids=str,
)
def test_wrong_questions_are_told_in_a_sentence(change, says):
    frame = frame_of(study(np.random.default_rng(0), levels=4, seeds=2), task="dreambooth")
    frame["half"] = frame["placement"].isin(["a", "b"])
    frame = frame[frame["placement"] == "a"] if change.get("design") == "task" else frame
    with pytest.raises(ValueError, match=says):
        analysis.race(frame, **{"metric": "clip_i", "d": 0.02, **change})


def test_both_promises_hold_in_simulation():
    """True rates are about 1 %: 5 % of 400 races and two standard errors are 29."""
    null = World((0.0,) * 8, 0.033)
    noisy = World((0.0,) * 8, tuple(np.sqrt(np.linspace(1, 10, 8)) * 0.033))
    close = World((0.031, *(0.0,) * 7), 0.033)
    for world in (null, noisy, close):
        found = simulate(world, 0.03, races=400, most=16)
        assert found.lost_best.sum() + found.leader_wrong.sum() < 29
        assert (found.runs <= 8 * 16).all()
    # A race without a correction for its looks loses the best far more often, so the bound above can tell.
    assert simulate(null, 0.03, races=400, most=16, alpha=0.49).lost_best.sum() > 29


def test_runs_of_a_race_on_the_lab_are_as_published():
    """About 70 runs on average at d = 0.03, where 20 x 3 runs are the usual study."""
    table = pd.read_csv(ROOT / "notebooks" / "lab_placement.csv")
    means = tuple(table.groupby("placement")["clip_i"].mean())
    found = simulate(World(means, 0.033, 0.054), 0.03, races=200)
    assert 66 < found.runs.mean() < 74 and found.decided.mean() > 0.98 and found.false <= 0.05


def test_the_interval_with_the_best_holds():
    rng, broken = np.random.default_rng(8), 0
    means = np.array([0.5, 0.49, 0.45, 0.4])
    levels = list("abcd")
    for _ in range(200):
        table = means + rng.normal(0, 0.04, (8, 4)) + rng.normal(0, 0.05, (8, 1))
        r = analysis.race(frame_of([dict(zip(levels, row, strict=True)) for row in table]), "clip_i", d=0.01, most=8)
        true = pd.Series([means[i] - np.delete(means, i).max() for i in range(4)], levels)
        inside = (r.bounds["low"] <= true[r.bounds.index] + 1e-12) & (true[r.bounds.index] - 1e-12 <= r.bounds["high"])
        broken += not inside.all()
    assert broken <= 16  # 5 % of 200 and two standard errors
    assert stats.binom.sf(16, 200, 0.05) < 0.03
