"""The status of a study, read from its folder, and how many seeds one like it needs."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from fake_study import write_study
from scipy import stats
from study_tools import environment

import analysis
from sdpet.files import run_lock
from sdpet.runs import Record
from sdpet.study import status_text, study_status
from sdpet.study.manifest import FILE
from sdpet.study.status import HEAD, Ended, _end_of, _pace


@pytest.fixture
def study(tmp_path):
    """Three of six runs there, one of them failed."""
    folder = write_study(
        tmp_path / "s", ["attn2o-ffni", "ffni-ffni", "resi-reso"], [0], failed=[("resi-reso", 0)], samples=0
    )
    names = sorted(path.parent.name for path in folder.glob("*/record.json"))
    runs = {name: f"run {i}" for i, name in enumerate([*names, "111111111111", "222222222222", "333333333333"])}
    (folder / FILE).write_text(json.dumps({"asked": 0.0, "command": ["train.py", "-m", "a=b c"], "runs": runs}))
    for i, name in enumerate(names):
        os.utime(folder / name / "record.json", (1000 + 60 * i, 1000 + 60 * i))
    return folder


def test_progress_rate_failures_and_stale_claims(study):
    (study / ".claims").mkdir()
    (study / ".claims" / "222222222222").touch()  # nobody holds it
    with run_lock(study / "111111111111"):
        status = study_status(study)
        text = status_text(status)
    assert status.running == ["111111111111"] and status.stale == ["222222222222"]
    assert "3 of 6 runs (50%): 2 finished, 1 failed, 1 under way, 2 waiting" in text
    assert "left      about 3 min: one run every 60 s" in text
    assert "failed    1: Out of memory while sampling <image 3>.  (run " in text
    assert "1 run was left by a process that died" in text
    text = status_text(study_status(study))
    assert "once it is resumed" in text and "python train.py -m 'a=b c'" in text


def test_a_run_that_asked_for_nothing_is_looked_at_as_it_is(study):
    (study / FILE).write_text("{")
    text = status_text(study_status(study))
    assert "3 runs with a record: 2 finished, 1 failed" in text
    broken = next(study.glob("*/record.json"))
    broken.write_text(broken.read_text()[:-30])  # half a record is none
    assert "2 runs with a record" in status_text(study_status(study))


def test_pauses_are_not_part_of_the_rate():
    assert _pace([0, 10, 20, 30, 5000, 5010, 5020]) == pytest.approx(10)
    assert _pace([0, 0, 0, 40, 40, 40, 80, 80, 80]) == pytest.approx(40 / 3)  # fleets of three
    jitter = [0, 0.02, 0.05, 400, 400.02, 400.03]
    assert _pace(jitter) == pytest.approx(400 / 3, rel=0.01) and _pace(jitter[:3]) is None  # one fleet tells nothing
    assert _pace([5.0]) is None and _pace([]) is None


def test_the_command(study, tmp_path):
    def ask(*arguments):
        command = [sys.executable, "-X", "importtime", "-m", "sdpet.study", *arguments]
        return subprocess.run(command, env=environment(), capture_output=True, text=True, cwd=tmp_path)

    ended = ask("status", str(study))
    assert ended.returncode == 0 and "3 of 6 runs" in ended.stdout
    assert "torch" not in ended.stderr.split("Traceback")[0].replace("torchv", "")
    ended = ask("status", "nowhere")
    assert ended.returncode == 1 and "error: there is no folder nowhere" in ended.stderr


def simulated_power(levels, seeds, difference, spread, test, repeats=4000):
    """Share of p < 0.05 in studies drawn at random; the p values are computed here from sums of squares."""
    rng = np.random.default_rng(0)
    means = np.zeros(levels)
    means[0], means[1] = difference / 2, -difference / 2
    y = means[:, None] + rng.normal(0, spread, (repeats, levels, seeds)) + rng.normal(0, 1, (repeats, 1, seeds))
    rest = y - y.mean(1, keepdims=True) - y.mean(2, keepdims=True) + y.mean((1, 2), keepdims=True)
    df = (levels - 1) * (seeds - 1)
    variance = (rest**2).sum((1, 2)) / df
    of_level = y.mean(2)
    if test == "pair":
        t = (of_level[:, 0] - of_level[:, 1]) / np.sqrt(2 * variance / seeds)
        return float(np.mean(2 * stats.t.sf(np.abs(t), df) < 0.05))
    between = seeds * ((of_level - of_level.mean(1, keepdims=True)) ** 2).sum(1) / (levels - 1)
    return float(np.mean(stats.f.sf(between / variance, levels - 1, df) < 0.05))


@pytest.mark.parametrize("test", ["pair", "factor"])
@pytest.mark.parametrize(("levels", "effect"), [(3, 1.5), (6, 1.0)])
def test_planned_power_is_the_power_of_simulated_studies(levels, effect, test):
    rng = np.random.default_rng(1)
    y = rng.normal(size=(levels, 4))
    y -= y.mean(0) + y.mean(1, keepdims=True) - y.mean()
    y *= np.sqrt((levels - 1) * 3 / (y**2).sum())  # a pilot whose residual spread is exactly 1
    pilot = pd.DataFrame(
        [(i, s, y[i, s] + 5 * s + i) for i in range(levels) for s in range(4)], columns=["g", "seed", "y"]
    )
    row = analysis.seeds_needed(pilot, "y", "g", effect).loc[test]
    seeds = int(row["seeds"])
    tolerance = 3.5 * np.sqrt(0.16 / 4000)
    found = simulated_power(levels, seeds, effect, 1.0, test)
    assert found == pytest.approx(row["power"], abs=tolerance) and row["power"] >= 0.8
    assert simulated_power(levels, seeds - 1, effect, 1.0, test) < 0.8 + tolerance  # one seed fewer is too few
    assert simulated_power(levels, 4, row["detects"], 1.0, test) == pytest.approx(0.8, abs=tolerance)
    assert row["seeds_at_worst"] > seeds


def test_power_on_the_command_line(tmp_path, capsys):
    from analysis.__main__ import main

    write_study(tmp_path / "pilot", samples=0)
    assert main(["power", str(tmp_path / "pilot"), "--effect", "0.05", "--factor", "placement"]) == 0
    said = capsys.readouterr().out
    needed = analysis.seeds_needed(analysis.load_results(tmp_path / "pilot"), "clip_i", "placement", 0.05)
    assert f"two levels alone (t test)        {needed.loc['pair', 'seeds']:.0f} seeds" in said
    for wrong, says in ((["--effect", "-1"], "above 0"), (["--effect", "1", "--factor", "lr"], "placement, din, dout")):
        assert main(["power", str(tmp_path / "pilot"), *wrong]) == 1
        assert says in capsys.readouterr().err


def test_a_record_is_read_alike_in_short_and_cut_off_is_none(tmp_path):
    record = Record(
        "0123456789ab", 'a "b"', "failed", {"seed": 0}, {"name": "dreambooth"}, 'disk "full"\n', loss=[[1, 2.0]]
    )
    record.write(tmp_path)
    content = (tmp_path / "record.json").read_bytes()
    assert HEAD.match(content)  # the short way is taken
    assert _end_of(content, 5.0) == Ended(record.status, record.reason, 5.0)
    assert all(_end_of(content[:length], 5.0) is None for length in range(0, len(content) - 2, 7))


@pytest.mark.parametrize(
    ("images", "references", "shown"), [(500, 5000, "~12"), (5000, 500, "~12"), (5000, 5000, "12.346")]
)
def test_distances_of_fewer_images_than_features_have_no_three_digits(images, references, shown):
    from sdpet.study.report import scores_table

    record = Record("a", "b", "finished", {}, {})
    record.metrics = {"fid": 12.3456, "fid_infinity": 11.0, "clip_t": 0.25678}
    made = {"fid": {"scorer": "inception", "images": {"prompt": images}}, "clip_t": {"images": {"prompt": images}}}
    record.protocol = {"reference_count": references, "scores": made}
    rows = {line.split()[0]: line.split()[1] for line in scores_table(record).splitlines()[1:]}
    assert rows["fid"] == shown and rows["clip_t"] == "0.257"
