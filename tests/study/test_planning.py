"""A study before it runs: which runs, in which order, what they can tell and what they take."""

from __future__ import annotations

import itertools
import json
import re
import time

import numpy as np
import pandas as pd
import pytest
from scipy import special, stats
from study_tools import ROOT, composed, tiny_overrides, train

import analysis
from analysis.planning.dry_run import foresee, interval_widths
from analysis.variance.effect_size import effect_interval, noncentrality
from sdpet.adapters import PLACEMENTS
from sdpet.config import run_id, settings_of, validate
from sdpet.runs import Record, factors
from sdpet.study import Composer, SweepOptions, make_plan
from sdpet.study.forecast import levels_of
from sdpet.study.manifest import read_manifest
from sdpet.study.plan import in_random_order, training_first


class FakeLauncher:
    """Writes the record a run would end with, as `score(job)` says; None stands for a failure."""

    fleet_size = 1  # as launchers of ours have

    def __init__(self, score):
        self.score, self.launched = score, []

    def launch(self, job_overrides, initial_job_idx):
        for job in make_plan(self.composer, job_overrides).jobs:
            self.launched.append(job.name)
            value = self.score(job)
            record = Record(job.folder.name, job.config.study, "failed", factors(job.config), {"name": "dreambooth"})
            record.reason = "ZeroDivisionError: division by zero"
            if value is not None:
                record.status, record.reason, record.metrics = "finished", None, {"clip_i": value}
            (job.folder / "samples").mkdir(parents=True, exist_ok=True)
            (job.folder / "samples" / "index.jsonl").touch()
            (job.folder / "config.yaml").touch()
            record.write(job.folder)
        return []


@pytest.fixture
def sweeper_of(tmp_path):
    """A function: (overrides, launcher) -> a sweeper as Hydra sets it up, on the lab."""
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.types import RunMode
    from omegaconf import OmegaConf

    from hydra_plugins.sdpet_sweeper import GridSweeper

    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        hydra = GlobalHydra.instance().hydra

        def make(*given, launcher=None):
            own = [text for text in given if text.startswith(("+sweeps", "hydra."))]
            master = hydra.compose_config(
                "config", [*own, f"output_root={tmp_path}", "quiet=true"], RunMode.MULTIRUN, from_shell=False
            )
            settings = OmegaConf.to_container(master.hydra.sweeper)
            settings.pop("_target_")
            sweeper = GridSweeper(**settings)
            sweeper.hydra_context = type("Context", (), {"config_loader": hydra.config_loader})
            sweeper.config, sweeper.launcher = master, launcher
            return sweeper

        yield make


@pytest.fixture
def plan_of(sweeper_of):
    def plan(*given):
        sweeper = sweeper_of(*given)
        options = SweepOptions.checked(sweeper.options)
        arguments = [text for text in given if not text.startswith("hydra.")]
        return sweeper.planned(Composer(sweeper.hydra_context.config_loader, sweeper.config), arguments, options)[0]

    return plan


SWEEPS = {
    # name: runs, cells, of which the runs of a first wave train
    "smoke": (6, 3, 6),
    "placement": (60, 20, 60),
    "race": (20, 20, 20),
    "form": (144, 48, 144),
    "width": (30, 10, 30),
    "guidance": (72, 24, 9),
    "baselines": (20, 4, 20),
}


@pytest.mark.parametrize("name", SWEEPS)
def test_every_ready_study_plans(name, plan_of):
    from sdpet.study.forecast import levels_of

    plan = plan_of(f"+sweeps={name}")
    rows, names = levels_of(plan.jobs)
    designs = pd.DataFrame(rows).groupby([n for n in names if n != "seed"]).ngroups
    assert (len(plan.jobs), designs, len(training_first(plan.jobs)[0])) == SWEEPS[name]
    assert {job.folder.parent.name for job in plan.jobs} == {name} and not plan.dropped and not plan.doubled


def test_the_papers_factorial(plan_of, sweeper_of):
    asked = {tuple(job) for job in sweeper_of("+sweeps=paper").combinations(["+sweeps=paper"])}
    assert len(asked) == len(PLACEMENTS) * 4 * 4 * 3 * 4  # of the four pairs of task and data two cannot exist
    plan = plan_of("+sweeps=paper", "adapter=attn2o-ffni", "seed=0")
    cells = {(job.config.adapter.activation, job.config.adapter.scale, job.config.task.name) for job in plan.jobs}
    forms = itertools.product(("relu", "sig", "silu", "ident"), (0.5, 1.0, 2.0, 4.0), ("dreambooth", "finetune"))
    assert cells == set(forms) and len(plan.jobs) == 32
    assert sorted(plan.dropped) == ["dreambooth on digits", "finetune on lab"]


def test_runs_are_composed_as_hydra_composes_them(plan_of):
    """Also where one value refers to another, is null, or was missing, and where runs share what is checked once."""
    from hydra import compose
    from omegaconf import OmegaConf

    sweeps = [
        ["unet.guidance=3,4", "sampler=plms", "trainer.clip=null,1"],
        ["sampler.guidance=3", "unet.guidance=1", "adapter.mid_dim=4,8", "data.prompt='a photo of a sks star, red'"],
        ["adapter.din=attn1i,ffni", "adapter.dout=ffni", "eval.prompts=['{prompt}']", "+sweeps=smoke"],
        ["adapter=full", "trainer.lr=1e-3,1e-4"],
        ["seed=0,1", "adapter.scale=1,2", "trainer.lr=1e-3,2e-3", "eval.images=4,5"],
    ]
    mine = ("output_root", "quiet", "asked")
    for sweep in sweeps:
        plan = plan_of(*sweep)
        assert plan.doubled == (8 if "+sweeps=smoke" in sweep else 0)  # its placements are overridden
        for job in plan.jobs:
            composed = OmegaConf.to_container(compose("config", list(job.overrides)), resolve=True)
            hydras = validate({**composed, "asked": job.config.values["asked"]})
            assert run_id(hydras) == job.folder.name and settings_of(hydras) == settings_of(job.config)
            assert all(job.config.values[key] == value for key, value in hydras.values.items() if key not in mine)


def test_the_order_is_random_within_a_seed_and_stays_when_seeds_are_added(plan_of):
    sweep = ["adapter.activation=relu,sig,silu,ident", "adapter.scale=0.5,1,2,4"]
    few, many = plan_of(*sweep, "seed=0,1").jobs, plan_of(*sweep, "seed=2,0,1").jobs
    assert len(few) == 32 and [job.folder for job in few] == [job.folder for job in many[:32]]
    seeds = [job.config.seed for job in few]
    assert seeds == sorted(seeds)
    names = [job.name for job in few]
    written = [job.name for job in plan_of(*sweep, "seed=0,1", "hydra.sweeper.order=null").jobs]
    again = [job.name for job in in_random_order(few[::-1], 0)]
    other = [job.name for job in plan_of(*sweep, "seed=0,1", "hydra.sweeper.order=1").jobs]
    assert sorted(names) == sorted(written) and names == again
    assert len({tuple(names), tuple(written), tuple(other)}) == 3
    first, second = ([job.config.values["adapter"] for job in few[half]] for half in (slice(16), slice(16, 32)))
    assert first != second  # each seed has an order of its own


def test_replicates_are_seeds(plan_of):
    assert {job.config.seed for job in plan_of("+sweeps=smoke", "hydra.sweeper.replicates=4").jobs} == {0, 1, 2, 3}
    with pytest.raises(ValueError, match="not both"):
        plan_of("seed=1,2", "hydra.sweeper.replicates=4")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"fracton": 0.5}, "did you mean fraction"),
        ({"fraction": 1.5}, "hydra.sweeper.fraction must be a number from 0 to 1"),
        ({"fraction": 0.5, "runs": 3}, "not both"),
        ({"until": 0.1, "runs": 3}, "does not go with"),
        ({"order": "random"}, "hydra.sweeper.order must be a whole number of at least 0, or null"),
        ({"retry": "yes"}, "true or false"),
        ({"most": 1}, "at least 2"),
    ],
    ids=str,
)
def test_wrong_options_are_told_in_a_sentence(given, says):
    with pytest.raises(ValueError, match=re.escape(says)):
        SweepOptions.checked(given)


def test_a_fraction_is_balanced_and_the_same_again(plan_of):
    designs = ["adapter.din=attn1i,attn2i,ffni", "adapter.dout=ffni,transo"]
    form = [*designs, "adapter.activation=relu,sig,silu,ident", "adapter.scale=0.5,1,2,4", "seed=0,1"]
    plan = plan_of(*form, "hydra.sweeper.fraction=0.25")
    assert len(plan.jobs) == 48
    for key in ("activation", "scale"):
        counts = pd.Series([getattr(job.config.adapter, key) for job in plan.jobs]).value_counts()
        assert counts.max() - counts.min() <= 1
    placements = pd.Series([j.config.adapter.placement for j in plan.jobs])
    assert placements.value_counts().tolist() == [8] * 6
    again = plan_of(*form, "hydra.sweeper.runs=48")
    assert [job.folder for job in again.jobs] == [job.folder for job in plan.jobs]
    with pytest.raises(ValueError, match="13 parameters; take at least 13 runs"):
        plan_of(*form, "hydra.sweeper.runs=12")
    with pytest.raises(ValueError, match="names lr, which this sweep does not vary"):
        plan_of(*form, "hydra.sweeper.runs=40", "hydra.sweeper.effects=lr")


def dummies(frame):
    """The additive model in dummy coding, without sdpet's linear algebra."""
    return np.column_stack([np.ones(len(frame)), pd.get_dummies(frame.astype(str), drop_first=True, dtype=float)])


@pytest.mark.parametrize("size", [6, 7, 9])
def test_a_small_fraction_is_the_best_of_all_subsets(size):
    """Of a factorial with cells that cannot exist, by trying every subset."""
    cells = [(a, b, c) for a in range(3) for b in range(3) for c in range(2) if b >= a]
    frame = pd.DataFrame(cells, columns=list("abc"))
    x = dummies(frame)
    subsets = np.array(list(itertools.combinations(range(len(frame)), size)))
    best = np.linalg.det(np.einsum("sij,sik->sjk", x[subsets], x[subsets])).max()
    rows, _ = analysis.choose(frame, size, ["a", "b", "c"])
    assert len(set(rows)) == size
    assert np.linalg.det(x[rows].T @ x[rows]) == pytest.approx(best, rel=1e-6)


@pytest.mark.parametrize(
    ("levels", "factors", "size"),
    [(2, 7, 8), (3, 4, 9), (2, 11, 12)],
    ids=["2^(7-4)", "L9, 3^(4-2)", "Plackett-Burman 12"],
)
def test_known_orthogonal_arrays_are_found(levels, factors, size):
    """Saturated main-effect plans, whose efficiency is exactly 1."""
    names = [f"f{i}" for i in range(factors)]
    frame = pd.DataFrame(list(itertools.product(range(levels), repeat=factors)), columns=names)
    rows, efficiency = analysis.choose(frame, size, names, starts=30)
    assert efficiency == pytest.approx(1, abs=1e-9)
    for a, b in itertools.combinations(names, 2):
        pairs = frame.iloc[rows].groupby([a, b]).size()
        assert len(pairs) == levels**2 and pairs.nunique() == 1


def test_what_stays_estimable_is_named():
    full = pd.DataFrame(list(itertools.product([0, 1], repeat=4)), columns=list("ABCD"))
    half = full[full.sum(axis=1) % 2 == 0]
    pairs = [f"{a}:{b}" for a, b in itertools.combinations("ABCD", 2)]
    table = analysis.estimable(half, [*"ABCD", *pairs])
    assert table.loc[list("ABCD"), "df"].tolist() == [1] * 4
    aliased = {"A:B": "C:D", "A:C": "B:D", "A:D": "B:C", "B:C": "A:D", "B:D": "A:C", "C:D": "A:B"}
    assert table.loc[pairs, "aliased"].to_dict() == aliased
    said = "\n".join(foresee(half, list("ABCD"), "A + B*C + D"))
    assert re.search(r"effects +A: 1 of 1 df(\n +[BCD]: 1 of 1 df){3}\n +B:C: 1 of 1 df\n +residual: 2 df", said), said
    assert "A:D: 0 of 1 df, not estimable, confounded with B:C" in said and said.count("B:C: 1 of 1 df") == 1, said
    grid = pd.DataFrame([p.split("-") for p in PLACEMENTS], columns=["din", "dout"])
    table = analysis.estimable(grid, ["din", "dout"])
    assert table.loc[["din", "dout", "residual"], "df"].tolist() == [7, 4, 6]
    assert table.loc["din", "aliased"] == "dout" and "parts that share no level" in table.attrs["notes"][0]


def test_a_thousand_seeds_are_planned_at_once_and_counted_exactly():
    """The few seeds that are looked at stand for all: compared with counting every run, in a small study."""
    cells = [(p, *p.split("-"), seed) for p in PLACEMENTS for seed in range(1000)]
    frame = pd.DataFrame(cells, columns=["placement", "din", "dout", "seed"])
    started = time.monotonic()
    lines = "\n".join(foresee(frame, ["placement", "din", "dout", "seed"]))
    assert time.monotonic() - started < 20
    for text in ("placement: 19 of 19 df", "seed: 999 of 999 df", "residual: 18981 df", "din: 7 of 9 df, partly"):
        assert text in lines, lines
    small = frame[frame["seed"] < 25]
    counted = analysis.anova(small.assign(y=np.arange(len(small)) % 7), "y", ["din", "dout", "seed"])["df"]
    assert analysis.estimable(small, ["din", "dout", "seed"])["df"].to_dict() == counted.to_dict()


def test_an_interval_of_a_huge_effect_is_near_one():
    """Beyond what the noncentral F can be computed for; where it can, both ways agree."""
    low, high = effect_interval(1e10, 19, 18981)
    assert 1 - 1e-6 < low < high <= 1
    near = noncentrality(1e5, 3, 8, 0.975)
    assert near == pytest.approx(1e5 * 3 * special.chdtri(8, 0.975) / 8, rel=1e-3)


@pytest.mark.parametrize(
    ("given", "left", "dropped"),
    [
        (["sampler=ddim,plms", "sampler.eta=0,0.5"], 3, ["plms with eta 0.5"]),
        (["adapter=full,attn2o-ffni", "adapter.mid_dim=4,8"], 2, ["full with mid_dim 4", "full with mid_dim 8"]),
        (["sampler=ddim,dpm", "sampler.steps=50,1000"], 3, ["dpm with 1000 steps"]),
    ],
)
def test_cells_that_cannot_be_are_left_out_one_by_one(plan_of, given, left, dropped):
    plan = plan_of(*given)
    assert (len(plan.jobs), plan.dropped) == (left, dropped)
    with pytest.raises(ValueError):  # the same cell alone is an error
        validate(composed(*(text.replace("0,0.5", "0.5").replace("ddim,", "").replace("50,1000", "1000").replace(
            "full,attn2o-ffni", "full").replace("4,8", "4") for text in given)))  # fmt: skip


def test_a_width_left_to_the_number_of_parameters_is_a_level(plan_of):
    rows, names = levels_of(plan_of("adapter.mid_dim=null,4,8", "seed=0,1").jobs)
    assert names == ["mid_dim", "seed"]
    assert "mid_dim: 2 of 2 df" in "\n".join(foresee(pd.DataFrame(rows), names))


def test_runs_that_share_trainings_are_foreseen_by_trainings(plan_of):
    """8 strengths of guidance for each of 9 trainings: placement has 9 - 1 - 2 - 2 = 4 df of error, guidance 56."""
    rows, names = levels_of(plan_of("+sweeps=guidance").jobs)
    said = " ".join(" ".join(foresee(pd.DataFrame(rows), names)).split())
    assert "9 trainings for 72 runs" in said
    assert "effects placement: 2 of 2 df seed: 2 of 2 df residual: 4 df guidance: 7 of 7 df residual: 56 df" in said
    assert "pairs placement:guidance: 14 of 14 df residual: 42 df" in said


def test_a_fraction_of_runs_that_share_trainings_counts_trainings(plan_of):
    """9 trainings with 8 strengths of guidance each: 6 of them are two of each placement and two of each seed."""
    plan = plan_of("+sweeps=guidance", "hydra.sweeper.runs=6")
    cells = pd.DataFrame([(j.config.adapter.placement, j.config.seed, j.config.sampler.guidance) for j in plan.jobs])
    assert len(cells) == 48 and (cells.groupby([0, 1]).size() == 8).all(), "all runs of a training are done"
    trained = cells.drop_duplicates([0, 1])
    assert trained[0].value_counts().tolist() == trained[1].value_counts().tolist() == [2, 2, 2]
    with pytest.raises(ValueError, match=r"4 trainings cannot estimate placement \+ seed, which has 5 parameters"):
        plan_of("+sweeps=guidance", "hydra.sweeper.fraction=0.45")


def test_intervals_of_designs_that_share_trainings_count_trainings():
    """Two strengths of guidance of each of 2 placements x 4 seeds: 16 runs, 8 trainings, 3 df of error instead of 9."""
    rng = np.random.default_rng(0)
    runs = pd.DataFrame(
        [{"design": f"{p}{g}", "seed": s, "trained_in": f"{p}{s}", "run_id": f"{p}{g}{s}", "y": rng.normal()}
         for p in "ab" for g in "12" for s in range(4)]
    )  # fmt: skip
    apart = interval_widths(runs.drop(columns="trained_in"), "y", 0.1, 12)
    shared = interval_widths(runs, "y", 0.1, 12)
    ratio = stats.t.ppf(0.975, 3) / stats.t.ppf(0.975, 9)
    assert (shared["width"] / apart["width"]).to_numpy() == pytest.approx(ratio)


def test_a_dry_run_says_all_and_does_nothing(tiny_folder, subject_folders, tmp_path):
    out = tmp_path / "out"
    given = [*tiny_overrides(tiny_folder, subject_folders, out), "+sweeps=placement", "adapter.scale=1,2", "seed=0,1,2"]
    ended = train("-m", "--dry-run", *given, "hydra.sweeper.fraction=0.5", "hydra.sweeper.pilot=run")
    assert ended.returncode == 0, ended.stderr
    for text in ("60 of 120 runs", "placement: 19 of 19 df", "din: 7 of 9 df, partly estimable, confounded with dout",
                 "seed: 2 of 2 df", "D-efficiency 0.99", "time      about", "disk      about"):  # fmt: skip
        assert text in ended.stdout, ended.stdout
    assert not list(out.glob("placement/*"))
    ended = train("--dry-run", *given, f"hydra.sweeper.pilot={tmp_path / 'nowhere'}")
    assert ended.returncode == 1 and "there is no folder" in ended.stderr


def test_the_expected_time_is_by_measured_runs(plan_of):
    """Steps of training and of sampling count for themselves; what is trained already is not trained again."""
    from sdpet.study.forecast import make_forecast

    plan = plan_of("sampler.guidance=2,3,4", "trainer.steps=100", "sampler.steps=10")
    record = Record("a", "s", "finished", factors(plan.jobs[0].config) | {"steps": 10}, {"name": "dreambooth"})
    record.seconds = {"train": 2.0, "per_step": 0.2, "sample": 3.0, "score": 1.0, "total": 6.5}
    record.protocol = {"sampler": {"steps": 20}}
    train_jobs, score_jobs = training_first(plan.jobs)
    assert (len(train_jobs), len(score_jobs)) == (1, 2)
    expected = make_forecast(train_jobs, score_jobs, [(record, 500)], "x")
    assert expected.seconds == pytest.approx(100 * 0.2 + 3 * (10 * 3.0 / 20 + 1.0 + 0.5))
    assert expected.size == 1500
    assert make_forecast(train_jobs, score_jobs, [], "x").seconds is None


def test_the_expected_time_is_by_a_finished_study_beside_it_where_it_has_no_runs_of_its_own(plan_of, tmp_path):
    from sdpet.runs.folder import write_config
    from sdpet.study.forecast import forecast_lines, make_forecast
    from sdpet.study.sweep.beside import measured_beside

    plan = plan_of("task=dreambooth,finetune", "data=lab,digits", "trainer.steps=100", "sampler.steps=10")
    [job] = [job for job in plan.jobs if job.config.task.name == "dreambooth"]
    record = Record("a", "s", "finished", factors(job.config) | {"steps": 10}, {"name": "dreambooth"})
    record.seconds = {"train": 2.0, "per_step": 0.2, "sample": 3.0, "score": 1.0, "total": 6.5}
    record.protocol = {"sampler": {"steps": 20}}
    for study, config in {"other": job.config, "model": job.config.changed(unet={"path": "/x"})}.items():
        (tmp_path / study / "a").mkdir(parents=True)
        write_config(tmp_path / study / "a", config)
        record.write(tmp_path / study / "a")
    measured, where = measured_beside(tmp_path / "mine", plan.jobs)
    assert where == str(tmp_path / "other") and [found.run_id for found, _ in measured] == ["a"]
    expected = make_forecast(plan.jobs, [], measured, where)
    assert expected.seconds == pytest.approx(100 * 0.2 + 10 * 3.0 / 20 + 1.0 + 0.5)
    said = " ".join(forecast_lines(expected, 2, 0, 1, tmp_path / "mine"))
    assert f"about 23 s, based on 1 measured run of {where}" in said and "its runs of finetune, of which none" in said
    assert measured_beside(tmp_path / "other", plan.jobs)[0] == []


def test_runs_that_differ_only_in_the_sampler_train_once(tiny_folder, subject_folders, tmp_path, monkeypatch):
    import sdpet.training
    from sdpet.config import run_folder
    from sdpet.runs import Resources, run, run_together

    trained, original = [], sdpet.training.fit_together
    monkeypatch.setattr(sdpet.training, "fit_together", lambda *a, **k: (trained.append(1), original(*a, **k))[1])
    given = tiny_overrides(tiny_folder, subject_folders, tmp_path)
    resources = Resources()
    configs = [composed(*given, f"sampler.guidance={guidance}", "study=shared") for guidance in (2, 3)]
    first, second = (run(config, resources) for config in configs)
    assert len(trained) == 1 and second.trained_in == first.run_id and first.trained_in is None
    alone = run(composed(*given, "sampler.guidance=3", "study=alone"), resources)
    assert len(trained) == 2 and alone.run_id == second.run_id
    assert second.metrics == alone.metrics and second.loss == alone.loss and second.factors == alone.factors
    assert second.metrics != first.metrics and second.factors["guidance"] == 3
    folder = run_folder(validate(configs[1]))
    weights = folder / "adapters.safetensors"
    assert weights.read_bytes() == (tmp_path / "alone" / alone.run_id / weights.name).read_bytes()
    frame = analysis.load_results(tmp_path / "shared")  # one protocol but for the factor
    assert sorted(frame["guidance"]) == [2, 3] and "guidance" in analysis.factor_columns(frame)
    (tmp_path / "shared" / first.run_id / "adapters.safetensors").unlink()  # what was lost is trained again
    third = composed(*given, "sampler.guidance=4", "study=shared")
    assert run_together([third], resources)[0].trained_in is None and len(trained) == 3


def clip_i(job):
    """Two designs that lead closely and one far behind; seeds differ by 0.05."""
    level = {"attn2o-ffni": 0.70, "ffni-transo": 0.69, "resi-reso": 0.30}
    adapter = job.config.adapter
    noise = np.random.default_rng([*adapter.din.encode(), job.config.seed]).normal(0, 0.05)
    return level[adapter.placement] + noise


def test_seeds_are_added_to_all_designs_until_their_means_are_known(sweeper_of, tmp_path, capsys):
    launcher = FakeLauncher(clip_i)
    sweeper = sweeper_of("+sweeps=smoke", "hydra.sweeper.until=0.06", "hydra.sweeper.most=40", launcher=launcher)
    sweeper.sweep(["+sweeps=smoke", f"output_root={tmp_path}", "seed=0,1,2"])
    folder = tmp_path / "smoke"
    runs = analysis.load_results(folder)
    seeds = runs.groupby("placement").size()
    assert seeds.nunique() == 1 and seeds.max() > 5  # the one far behind as well
    assert len(set(launcher.launched)) == len(launcher.launched) == len(runs)
    means = analysis.marginal_means(runs, "clip_i", "placement", block="seed")
    assert ((means["high"] - means["low"]) <= 0.06).all()
    assert f"{len(runs)} runs: {len(runs)} completed" in capsys.readouterr().out
    looks = [look["runs"] for look in json.loads((folder / ".looks.json").read_text())]
    assert read_manifest(folder).factors["seed"] == seeds.max()
    assert looks[0] == 9 and looks[-1] == len(runs) and len(looks) > 2 and looks == sorted(set(looks))
    bounded = sweeper_of("+sweeps=smoke", "hydra.sweeper.until=0.001", "hydra.sweeper.most=12", launcher=launcher)
    bounded.sweep(["+sweeps=smoke", f"output_root={tmp_path}", "study=bounded", "seed=0,1,2"])
    assert (analysis.load_results(tmp_path / "bounded").groupby("placement").size() == 12).all()


@pytest.mark.usefixtures("undrawn")
def test_a_report_says_how_often_results_were_looked_at(sweeper_of, tmp_path):
    from analysis.report import write_report

    launcher, given = FakeLauncher(clip_i), ["+sweeps=smoke", f"output_root={tmp_path}"]
    said = []
    for seeds in ("0,1,2", "0,1,2", "0,1,2,3", "0,1,2,3,4"):
        sweeper_of("+sweeps=smoke", launcher=launcher).sweep([*given, f"seed={seeds}"])
        said.append(" ".join(write_report(tmp_path / "smoke").notes))
    assert "looked at" not in said[0] and "looked at" not in said[1]  # the same runs again are no new look
    assert "looked at 2 times while runs were added (at 9, 12 runs)" in said[2]
    assert "looked at 3 times while runs were added (at 9, 12, 15 runs)" in said[3]


def test_failed_runs_are_done_again_unless_asked_otherwise(sweeper_of, tmp_path, capsys):
    given = ["+sweeps=smoke", f"output_root={tmp_path}"]
    broken = FakeLauncher(lambda job: None if "resi" in job.name else 0.5)
    with pytest.raises(SystemExit) as ended:
        sweeper_of("+sweeps=smoke", launcher=broken).sweep(given)
    said = capsys.readouterr().out
    assert ended.value.code == 1 and "6 runs: 4 completed" in said and "2 failed" in said
    assert said.count("ZeroDivisionError: division by zero") == 2
    repaired = FakeLauncher(lambda job: 0.5)
    with pytest.raises(SystemExit) as ended:
        sweeper_of("+sweeps=smoke", "hydra.sweeper.retry=false", launcher=repaired).sweep(given)
    assert ended.value.code == 1 and repaired.launched == [] and "2 failed" in capsys.readouterr().out
    sweeper_of("+sweeps=smoke", launcher=repaired).sweep(given)
    assert len(repaired.launched) == 2 and "2 completed" in capsys.readouterr().out
    plan = json.loads((tmp_path / "smoke" / ".plan.json").read_text())
    assert len(plan["runs"]) == 6


ONE_OF_EACH = {
    # sweep: what makes it small, the model whose terms must have an F
    "placement": (["seed=0,1", "adapter=attn1i-ffni,attn1i-transo,ffni-ffni,ffni-transo"], "clip_i ~ din + dout"),
    "form": (["seed=0,1", "adapter.activation=relu,sig", "adapter.scale=1,4"], "clip_i ~ placement + activation*scale"),
    "paper": (
        ["hydra.sweeper.runs=40", "adapter=attn2o-ffni,resi-reso", "eval.images=20"],
        "clip_t ~ placement + scale",
    ),
    "width": (["seed=0,1", "adapter.mid_dim=4,8"], "clip_i ~ placement + mid_dim"),
    "guidance": (
        ["seed=0,1", "sampler.guidance=1.5,4", "adapter=attn2o-ffni,ffni-ffni"],
        "clip_i ~ placement + guidance",
    ),
    "baselines": (["seed=0,1,2"], "clip_i ~ method"),
    "smoke": ([], "clip_i ~ placement"),
}


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_every_ready_study_runs_and_its_factors_are_tested(name, tmp_path):
    """On the lab, with few steps; the report is written and each factor has its F."""
    smaller, model = ONE_OF_EACH[name]
    few = ["trainer.steps=2", "sampler.steps=2", "eval.subject_images=1", "eval.class_images=1", "eval.prompt_images=1"]
    ended = train("-m", f"+sweeps={name}", f"output_root={tmp_path}", *few, *smaller, "quiet=true", timeout=1500)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    runs = analysis.load_results(tmp_path / name)
    if name == "paper":
        assert set(runs["task"]) == {"dreambooth", "finetune"}
        runs = runs[runs["task"] == "dreambooth"]
    metric, terms = analysis.parse_model(model)
    table = analysis.anova(runs, metric, terms, block="seed")
    assert np.isfinite(table.loc[terms, "F"].astype(float)).all(), table
    if name == "guidance":
        assert sum(Record.read(path).trained_in is not None for path in runs["path"]) == 4
    if name != "paper":
        from analysis.__main__ import main

        assert main([str(tmp_path / name), "--quiet"]) == 0
        assert (tmp_path / name / "report" / "index.html").exists()


def test_a_value_that_refers_to_a_swept_key_follows_it(sweeper_of, tmp_path):  # as Hydra's own sweeper does
    sweeper = sweeper_of()
    composer = Composer(sweeper.hydra_context.config_loader, sweeper.config)
    given = ["seed=1,2", "adapter.mid_dim=${seed}", "trainer.warmup=${adapter.mid_dim}", f"output_root={tmp_path}"]
    jobs = make_plan(composer, sweeper.combinations(given)).jobs
    assert [(job.config.seed, job.config.adapter.mid_dim, job.config.trainer.warmup) for job in jobs] == [
        (1, 1, 1),
        (2, 2, 2),
    ]


@pytest.mark.parametrize("key", ["hydra/launcher=local,fleet", "hydra.launcher.workers=1,2"])
def test_what_belongs_to_the_whole_command_cannot_be_swept(sweeper_of, key):
    with pytest.raises(ValueError, match=f"{key.partition('=')[0]} is of the whole command, not of a run"):
        sweeper_of().combinations([key])


@pytest.mark.parametrize(
    ("given", "some"),
    [
        ((), {"clip_i", "noise_difference"}),
        (("eval=lab_full",), {"judge_i"}),
        (("task=finetune", "data=digits", "eval=lab_full"), {"fid_infinity", "judge_fid", "cmmd", "digit_right"}),
        (("task=finetune", "data=shapes"), {"fid", "shape_right"}),
    ],
)
def test_the_scores_of_a_run_are_known_before_it(plan_of, given, some):
    from sdpet.runs import Resources
    from sdpet.runs.setup import make_plan
    from sdpet.scoring import personalisation_measures, set_measures
    from sdpet.study.sweep.scores import possible_scores

    config = plan_of(*given).jobs[0].config
    scorers = Resources().scorers(config)
    personal = config.task.name == "dreambooth"
    measures = personalisation_measures(scorers) if personal else set_measures(scorers, make_plan(config))
    own = {name for measure in measures for name in measure.metrics}
    assert own | some == set(possible_scores(config)) - ({"noise_difference"} - some) - _unread(scorers)


def _unread(scorers):
    """Shares of images that a network reads right, of networks that read none."""
    return {f"{name}_right" for name in scorers if not hasattr(scorers[name], "read")}
