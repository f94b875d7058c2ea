"""A study as a race, through the sweeper: what is run, kept, resumed, refused and said."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time

import numpy as np
import pandas as pd
import pytest
from study_tools import command, environment, tiny_overrides, train
from test_planning import FakeLauncher, sweeper_of  # noqa: F401 (a fixture)

import analysis
from analysis.report.words import placement_words
from analysis.sequential.stored import FILE, read_race
from sdpet.study.manifest import read_manifest
from sdpet.study.plan import make_plan
from sdpet.study.status import status_text, study_status

LEVEL = {"attn2o-ffni": 0.70, "ffni-transo": 0.68, "resi-reso": 0.60, "attn1i-ffni": 0.67}
ADAPTERS = "adapter=attn2o-ffni,ffni-transo,resi-reso,attn1i-ffni"
RACE = ("hydra.sweeper.race=0.03", "hydra.sweeper.confirm=2")


def clip_i(job):
    placement, seed = job.config.adapter.placement, job.config.seed
    noise = np.random.default_rng([*placement.encode(), seed]).normal(0, 0.03)
    return LEVEL[placement] + 0.05 * np.sin(seed) + noise


class Killed(FakeLauncher):
    """Dies after so many runs, as a job that is killed does."""

    left = 0

    def launch(self, job_overrides, initial_job_idx):
        for overrides in job_overrides:
            if self.left == 0:
                raise KeyboardInterrupt
            self.left -= 1
            super().launch([overrides], initial_job_idx)
        return []


def sweep_of(tmp_path, *more):
    return [ADAPTERS, f"output_root={tmp_path}", "study=raced", *more]


def race_of(folder):
    return {k: v for k, v in json.loads((folder / FILE).read_text()).items() if k != "before"}


def test_a_race_runs_what_its_looks_ask_for_and_keeps_what_they_decide(sweeper_of, tmp_path, capsys):  # noqa: F811
    launcher, folder = FakeLauncher(clip_i), tmp_path / "raced"
    sweeper_of(*RACE, launcher=launcher).sweep(sweep_of(tmp_path))
    stored = read_race(folder)
    runs = analysis.load_results(folder).sort_values(["seed", "placement"])
    r = analysis.race(runs, "clip_i", d=0.03)
    assert r.decided and len(stored.looks) == len(r.looks) > 1 and r.out
    assert [look["leader"] for look in stored.looks] == r.looks["leader"].tolist()
    assert {each["design"] for look in stored.looks for each in look["out"]} == set(r.out)
    assert len(runs) == r.runs_used == sum(map(len, stored.scores.values())) < 4 * r.looks.index[-1]
    assert len(launcher.launched) == len(set(launcher.launched)) == len(runs) + 2
    fresh = analysis.load_results(folder, confirm=True)
    assert set(fresh["placement"]) == {r.leader} and set(fresh["seed"]) == {48, 49} == set(stored.fresh)
    said = status_text(study_status(folder))
    assert re.search(rf"factors   .*dout \(3\), seed \({r.looks.index[-1]}\)", said)
    assert f"leader {r.leader}" in said and f"(worse than {r.bounds.loc[r.out[0], 'by']} by" in said
    assert f"{r.leader} is the best of 4 designs or worse than the best by 0.03 at most, with 95%" in said
    assert [look["regret"] for look in stored.looks] == pytest.approx(r.looks["regret"].tolist())
    assert f"leader {r.leader}, worse than the best by {r.looks['regret'].iloc[0]:.3g} at most, 0 parked" in said
    before = race_of(folder)
    sweeper_of(*RACE, launcher=launcher).sweep(sweep_of(tmp_path))  # all is there
    assert len(launcher.launched) == len(runs) + 2 and race_of(folder) == before
    assert f"{len(runs) + 2} runs: {len(runs) + 2} already complete" in capsys.readouterr().out


@pytest.mark.parametrize("steps", [(3, 6), (8, 1), (9, 4, 1)], ids=str)
def test_a_race_that_is_killed_anywhere_decides_as_one_that_was_not(sweeper_of, tmp_path, steps):  # noqa: F811
    whole = tmp_path / "whole"
    sweeper_of(*RACE, launcher=FakeLauncher(clip_i)).sweep(sweep_of(whole))
    launcher = Killed(clip_i)
    for launcher.left in steps:
        with pytest.raises(KeyboardInterrupt):
            sweeper_of(*RACE, launcher=launcher).sweep(sweep_of(tmp_path))
    launcher.left = 1000
    sweeper_of(*RACE, launcher=launcher).sweep(sweep_of(tmp_path))
    assert race_of(tmp_path / "raced") == race_of(whole / "raced")
    assert len(set(launcher.launched)) == len(launcher.launched)


def test_runs_beside_the_race_are_named_and_play_no_part(sweeper_of, tmp_path, capsys):  # noqa: F811
    launcher, folder = FakeLauncher(clip_i), tmp_path / "raced"
    sweeper_of(launcher=FakeLauncher(lambda job: 9.0)).sweep(
        [*sweep_of(tmp_path, "seed=40,41")[1:], "adapter=resi-reso"]
    )
    sweeper_of(*RACE, launcher=launcher).sweep(sweep_of(tmp_path))
    assert "left out  2 runs that the race did not ask for (resi-reso seed 4" in capsys.readouterr().out + "".join(
        read_race(folder).said
    )
    assert len(read_race(folder).outside) == 2 and read_race(folder).before == 2
    plain = tmp_path / "plain"
    sweeper_of(*RACE, launcher=launcher).sweep(sweep_of(plain))
    assert race_of(plain / "raced")["looks"] == race_of(folder)["looks"]


def test_the_rules_stay_once_a_look_was_made(sweeper_of, tmp_path):  # noqa: F811
    launcher = FakeLauncher(clip_i)
    sweeper_of(*RACE, "hydra.sweeper.most=2", launcher=launcher).sweep(sweep_of(tmp_path))
    looks = race_of(tmp_path / "raced")["looks"]
    assert len(looks) == 1 and looks[0]["undecided"] > 0
    confirmed = read_manifest(tmp_path / "raced").confirm
    assert len(confirmed) == 2 * (1 + looks[0]["undecided"])  # what a race leaves undecided is confirmed as well
    for given, word in [
        (("hydra.sweeper.race=0.05",), "race (d)"),
        (("hydra.sweeper.race=3%",), "race (d)"),
        ((*RACE, "hydra.sweeper.alpha=0.1"), "alpha"),
        ((*RACE, "hydra.sweeper.metric=prior_drift"), "score, direction"),
        ((*RACE, "hydra.sweeper.maximize=false"), "direction"),
    ]:
        with pytest.raises(ValueError) as refused:
            sweeper_of(*given, launcher=launcher).sweep(sweep_of(tmp_path))
        assert f"1 looks with another {word};" in str(refused.value)
    with pytest.raises(ValueError, match="another designs"):
        sweeper_of(*RACE, launcher=launcher).sweep([*sweep_of(tmp_path)[1:], "adapter=attn2o-ffni,resi-reso"])
    with pytest.raises(ValueError, match="another seeds"):
        sweeper_of(*RACE, launcher=launcher).sweep(sweep_of(tmp_path, "seed=5,6"))
    sweeper_of(*RACE, launcher=launcher).sweep(sweep_of(tmp_path))  # more seeds are allowed
    again = race_of(tmp_path / "raced")
    assert again["looks"][:1] == looks and len(again["looks"]) > 1 and again["most"] == 48
    with pytest.raises(ValueError, match="has looked"):
        sweeper_of(*RACE, "hydra.sweeper.most=2", launcher=launcher).sweep(sweep_of(tmp_path))


def test_designs_that_diverge_or_fail_are_out_and_stay_out(sweeper_of, tmp_path):  # noqa: F811
    broken = FakeLauncher(lambda job: None if "resi" in job.name and job.config.seed == 1 else clip_i(job))
    with pytest.raises(SystemExit):  # a failed run is no complete study
        sweeper_of(*RACE, launcher=broken).sweep(sweep_of(tmp_path))
    assert sum("resi-reso seed 1" in name for name in broken.launched) == 2  # tried once more, then out
    stored = read_race(tmp_path / "raced")
    assert stored.looks[0]["out"][0] == {"design": "resi-reso", "by": "diverged", "bound": None}
    mended = FakeLauncher(clip_i)
    with pytest.raises(SystemExit):
        sweeper_of(*RACE, launcher=mended).sweep(sweep_of(tmp_path))
    assert mended.launched == [] and read_race(tmp_path / "raced").looks == stored.looks


class Anchored(FakeLauncher):
    """Also writes floor and ceiling."""

    def launch(self, job_overrides, initial_job_idx):
        from sdpet.runs import Record

        found = super().launch(job_overrides, initial_job_idx)
        for job in make_plan(self.composer, job_overrides).jobs:
            record = Record.find(job.folder)
            record.anchors = {"clip_i": {"floor": 0.2 + 0.1 * job.config.seed, "ceiling": 0.95}}
            record.write(job.folder)
        return found


def test_d_can_be_a_share_of_floor_to_ceiling(sweeper_of, tmp_path):  # noqa: F811
    sweeper_of("hydra.sweeper.race=4%", launcher=Anchored(clip_i)).sweep(sweep_of(tmp_path))
    assert read_race(tmp_path / "raced").d == pytest.approx(0.04 * (0.75 + 0.65) / 2)  # the seeds of the first look
    with pytest.raises(ValueError, match="which clip_i does not have here"):
        sweeper_of("hydra.sweeper.race=4%", launcher=FakeLauncher(clip_i)).sweep(sweep_of(tmp_path / "plain"))


def test_of_many_designs_that_leave_at_one_look_the_row_has_the_number():
    from analysis.report.sections.race import _out

    left = [{"design": name, "by": "best", "bound": -0.0123} for name in "abcd"]
    assert _out(left) == "4 designs" and _out(left[:1]) == "a (by best, -0.012)"
    assert _out([{"design": "a", "by": None, "bound": None}]) == "a (diverged)" and _out([]) == ""


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (("+sweeps=guidance", "hydra.sweeper.race=0.03"), "some here share a training"),
        (("hydra.sweeper.race=0.03", "task=dreambooth,finetune", "data=lab,digits"), "is about one task"),
        (("hydra.sweeper.race=0.03", "task=finetune", "data=digits"), "hydra.sweeper.metric names the one"),
        (("hydra.sweeper.race=0.03", "adapter=attn2o-ffni"), "this sweep has one"),
        (("hydra.sweeper.race=3%", "hydra.sweeper.metric=prior_drift"), "a share of floor to ceiling"),
        (("hydra.sweeper.race=0.03", "hydra.sweeper.most=20"), "is no look of a race"),
        (("hydra.sweeper.race=0.03", "hydra.sweeper.metric=clip_j"), r"not 'clip_j' \(did you mean clip_[it]\?\)"),
        (("hydra.sweeper.race=0.03", "adaptr=glob(*)"), r"no group adaptr \(did you mean adapter\?\)"),
        (("hydra.sweeper.race=0",), "must be a difference of scores above 0"),
        (("hydra.sweeper.race=x%",), "must be a difference of scores above 0"),
        (("hydra.sweeper.race=0.03", "hydra.sweeper.until=0.1"), "not both"),
        (("hydra.sweeper.race=0.03", "hydra.sweeper.runs=10"), "does not go with fraction or runs"),
    ],
    ids=str,
)
def test_what_cannot_be_raced_is_refused_before_any_work(sweeper_of, tmp_path, given, says):  # noqa: F811
    launcher = FakeLauncher(clip_i)
    own = [text for text in given if not text.startswith("hydra.")]
    rest = sweep_of(tmp_path)[1:] if any(t.startswith(("adapter", "+sweeps")) for t in own) else sweep_of(tmp_path)
    with pytest.raises(ValueError, match=says):
        sweeper_of(*given, launcher=launcher).sweep([*rest, *own])
    assert not launcher.launched and not (tmp_path / "raced").exists()


def test_a_damaged_race_is_told(sweeper_of, tmp_path):  # noqa: F811
    launcher = FakeLauncher(clip_i)
    sweeper_of(*RACE, launcher=launcher).sweep(sweep_of(tmp_path))
    path = tmp_path / "raced" / FILE
    good = path.read_text()
    for bad in (good[:-40], good.replace('"alpha": 0.05', '"alpha": 7'), good.replace('"format": 1', '"format": 9'),
                good.replace('"seeds": [', '"seeds": ["a",', 1), "[]"):  # fmt: skip
        path.write_text(bad)
        with pytest.raises(ValueError, match="mend it"):
            sweeper_of(*RACE, launcher=launcher).sweep(sweep_of(tmp_path))


@pytest.mark.usefixtures("undrawn")
def test_the_page_of_a_race_shows_it_and_takes_the_rest_from_complete_seeds(sweeper_of, tmp_path):  # noqa: F811
    from analysis.report import write_report

    folder = tmp_path / "raced"
    sweeper_of(launcher=FakeLauncher(lambda job: 9.0)).sweep([*sweep_of(tmp_path, "seed=40")[1:], "adapter=resi-reso"])
    sweeper_of(*RACE, launcher=FakeLauncher(clip_i)).sweep(sweep_of(tmp_path))
    report = write_report(folder)
    stored, page = read_race(folder), report.page.read_text()
    r = stored.race().result()
    said = " ".join(report.conclusion)
    assert "or worse than the best by 0.03 at most" in said and "On 2 fresh seeds (48 and 49)" in said
    fresh = analysis.load_results(folder, confirm=True)["clip_i"].mean()
    assert f"is {fresh:.3g}, with 95" in said, said
    first = analysis.load_results(folder)
    first = first[first["seed"].isin([0, 1])]
    F = analysis.anova(first, "clip_i", ["placement"], block="seed").loc["placement", "F"]
    assert f"= {F:.1f}, p = " in said and "on 2 complete seeds, tested at 0.03" in said
    tables = report.page.parent / "tables"
    assert len((tables / "race_looks.csv").read_text().splitlines()) == 1 + len(r.looks)
    bounds = pd.read_csv(tables / "race_bounds.csv").set_index("level")
    assert bounds["n"].sum() == r.runs_used and bounds.loc[r.leader, "state"] == "leader"
    left = {one["design"]: -one["bound"] for look in stored.looks for one in look["out"]}
    assert left and bounds["least"].dropna().to_dict() == pytest.approx(left, abs=1e-6)
    facts = " ".join(re.sub(r"<[^>]+>", " ", page[page.index('<ul class="facts">') : page.index("</ul>")]).split())
    leader = placement_words(r.leader)
    assert report.headline.startswith(f"{leader} is the best of 4 designs or worse than the best by 0.03 at most")
    assert report.headline.count(". ") == 0
    assert f"{-r.bounds.loc[r.leader, 'low']:.3f}" in facts and f"of {len(r.bounds)} designs are not out" in facts
    assert f"{fresh:.3f}" in facts and "on fresh seeds" in facts and "of the way" not in facts
    assert "The race" in page and "alpha spent" in page and "1 run in the folder is not of the race" in page
    assert "the rest of the page is about the 8 runs on its first 2 seeds" in page
    assert all(name not in said for name in ("as it was picked for that", "the best is among"))
    other = write_report(folder, maximize=False, out=tmp_path / "other")  # asked otherwise: the race stays as it was
    assert "or worse than the best by 0.03 at most" in " ".join(other.conclusion)


def test_what_a_race_takes_is_said_before_it_runs(sweeper_of, tmp_path, capsys):  # noqa: F811
    def lines(*given):
        sweeper_of("hydra.sweeper.dry_run=true", *given).sweep(sweep_of(tmp_path))
        return capsys.readouterr().out

    said = lines("hydra.sweeper.race=0.03")
    assert "a race of 4 designs, 48 seeds at most" in said and "how many runs it takes is unknown" in said
    said = lines("hydra.sweeper.race=0.03", "hydra.sweeper.sds=[0.05,0.03]")
    middle, most = (int(n) for n in re.search(r"(\d+) runs in the middle, (\d+) at 90%", said).groups())
    null = int(re.search(r"where all 4 designs are equal: (\d+) runs", said)[1])
    assert 8 < middle < most < null < 4 * 48 and "as stated" in said and "4 of 4" not in said
    sweeper_of(launcher=FakeLauncher(clip_i)).sweep(sweep_of(tmp_path / "pilot", "seed=0,1,2"))
    said = lines("hydra.sweeper.race=0.03", f"hydra.sweeper.pilot={tmp_path / 'pilot' / 'raced'}")
    assert "the spread of the 12 runs in" in said
    with pytest.raises(ValueError, match="must be two numbers"):
        lines("hydra.sweeper.race=0.03", "hydra.sweeper.sds=[0.05]")


def test_a_race_is_told_to_wandb_beside_its_runs(sweeper_of, tmp_path, monkeypatch):  # noqa: F811
    from analysis.runs.load_wandb import _inspect, offline_files

    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    launcher, folder = FakeLauncher(clip_i), tmp_path / "raced"
    sweeper_of(*RACE, launcher=launcher).sweep(sweep_of(tmp_path, "logger=wandb", "logger.mode=offline"))
    [file] = offline_files(folder)
    told, stored = _inspect(file), read_race(folder)
    assert told.summary["race"]["looks"] == stored.looks and told.summary["race"]["said"] == stored.said
    assert told.config["report_of"] == "raced"
    assert len(analysis.load_results(folder)) == sum(map(len, stored.scores.values()))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_real_race_that_is_killed_twice_decides_as_one_that_was_not(tiny_folder, subject_folders, tmp_path):
    """`python train.py -m` in fleets, with all its processes killed during its first and its second look."""

    def given(out):
        form = ["adapter=attn2o-ffni,ffni-transo,resi-reso", "study=raced", "quiet=true", "hydra.launcher.workers=1"]
        rules = ["hydra.sweeper.race=1e-6", "hydra.sweeper.most=4", "hydra.sweeper.confirm=1"]
        return [*tiny_overrides(tiny_folder, subject_folders, out), *form, *rules]

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert train("-m", *given(whole), timeout=600).returncode == 0
    for least in (1, 7):  # of 6 runs in the first look and 3 in the second
        process = subprocess.Popen(
            command("-m", *given(killed)), env=environment(), start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        while len(list((killed / "raced").glob("*/record.json"))) < least and process.poll() is None:
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert train("-m", *given(killed), timeout=600).returncode == 0
    one, other = race_of(whole / "raced"), race_of(killed / "raced")
    assert one["looks"] and [look["seeds"] for look in one["looks"]][:2] == [2, 3]
    for first, second in zip(one.pop("looks"), other.pop("looks"), strict=True):
        rounded = ("sd", "regret", "out")  # fleets of other sizes round otherwise
        assert {k: v for k, v in first.items() if k not in rounded} == {
            k: v for k, v in second.items() if k not in rounded
        }
        assert [first["sd"], first["regret"]] == pytest.approx([second["sd"], second["regret"]], rel=1e-3)
        assert [e["design"] for e in first["out"]] == [e["design"] for e in second["out"]]
    assert (
        one["designs"] == other["designs"] and one["runs"] == other["runs"] and one["fresh_runs"] == other["fresh_runs"]
    )
