"""A question that is registered before a study runs, and what its report says of it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from fake_study import write_study
from test_planning import FakeLauncher, sweeper_of  # noqa: F401 (a fixture)

from analysis.planning.registered import FILE, Question, read_registration, register
from analysis.report import write_report
from sdpet.study import make_plan

SWEEP = ["adapter.din=attn1i,attn2i", "adapter.dout=ffni,transo", "study=asked", "seed=0,1"]
pytestmark = pytest.mark.usefixtures("undrawn")
LEVEL = {"attn1i": 0.3, "attn2i": 0.6}
REGISTER = ("hydra.sweeper.register=true", "hydra.sweeper.metric=clip_i")


def clip_i(job):
    """Two inputs far apart, and noise."""
    adapter = job.config.adapter
    return LEVEL[adapter.din] + np.random.default_rng([*adapter.placement.encode(), job.config.seed]).normal(0, 0.02)


class Watching(FakeLauncher):
    """Keeps what is registered when the first run starts."""

    seen = None

    def launch(self, job_overrides, initial_job_idx):
        folder = make_plan(self.composer, job_overrides).jobs[0].folder.parent
        self.seen = self.seen or read_registration(folder)
        return super().launch(job_overrides, initial_job_idx)


def test_the_question_is_stored_before_any_run_and_never_replaced(sweeper_of, tmp_path, capsys):  # noqa: F811
    launcher, sweep = Watching(clip_i), [*SWEEP, f"output_root={tmp_path}"]
    given = (*REGISTER, "hydra.sweeper.effects='din + dout'", "hydra.sweeper.alpha=0.01", "hydra.sweeper.looks=2")
    sweeper_of(*given, launcher=launcher).sweep(sweep)
    found = launcher.seen
    assert found is not None and found.in_time and len(found.runs) == 8
    assert found.question == Question("clip_i", True, ("placement", "din", "dout"), "din + dout", 0.01, 2)
    sweeper_of(*given, launcher=launcher).sweep(
        [*(text for text in sweep if not text.startswith("seed=")), "seed=0,1,2"]
    )  # the same question: kept as it was
    assert read_registration(tmp_path / "asked") == found
    with pytest.raises(ValueError, match="with another alpha"):
        sweeper_of(*given[:-2], given[-1], launcher=launcher).sweep(sweep)
    said = write_report(tmp_path / "asked", out=tmp_path / "report").notes[-1]
    assert "before any run ended" in said and "din + dout; alpha 0.01; 2 looks" in said, said
    assert "4 of the 12 runs are not of the registered plan" in said and "departs" not in said, said


def test_a_question_after_results_is_named_as_such(sweeper_of, tmp_path):  # noqa: F811
    launcher, sweep = FakeLauncher(clip_i), [*SWEEP, f"output_root={tmp_path}"]
    sweeper_of(launcher=launcher).sweep(sweep)
    sweeper_of(*REGISTER, launcher=launcher).sweep(sweep)
    report = write_report(tmp_path / "asked", out=tmp_path / "report")
    assert "after 8 runs had ended, so it was not chosen blind" in report.notes[-1]
    assert "not confirmatory" in report.page.read_text()
    assert ",matters" not in (tmp_path / "report" / "tables" / "registered.csv").read_text()


def test_the_report_says_what_was_registered_and_what_was_not(tmp_path):
    study = write_study(
        tmp_path / "study", [f"{i}-{o}" for i in ("attn1i", "attn2o") for o in ("ffni", "transo")], samples=0
    )
    assert "No question was registered before these runs." in write_report(study).choices
    runs = [path.parent.name for path in study.glob("*/record.json")]
    register(study, Question("prior_drift", True, ("placement", "din", "dout"), "din", looks=2), runs, 0)
    report = write_report(study)  # the registered question is the default of the page
    assert "Score: prior_drift (as registered), larger is better (as registered)." in report.choices
    assert "Factors: din (as registered)." in report.choices and "departs" not in report.notes[-1]
    page = report.page.read_text()
    assert "so 0.025 at each" in page and read_registration(study).digest in page
    other = write_report(study, "clip_i", ["placement"])
    assert "departs from it in the score (clip_i), the model (placement)" in other.notes[-1]
    text = (study / FILE).read_text()
    (study / FILE).write_text(text.replace('"looks": 2', '"looks": 1'))
    assert any("damaged or was changed" in note for note in write_report(study).notes)
    (study / FILE).unlink()
    register(study, Question("clip_i", True, ("placement", "din", "dout")), runs, 0)
    table = write_report(study).page.parent / "tables" / "registered.csv"
    lines = table.read_text().splitlines()
    assert any(line.startswith("placement,yes") and line.endswith("matters") for line in lines), lines
    assert any(line.startswith("din,yes") and line.endswith("matters") for line in lines), lines
    # Two placements that share no position, and another factor: placement is one factor, and din and dout its parts.
    few = write_study(
        tmp_path / "few", ["attn2o-ffni", "ffni-ffno"], forms=[{"scale": s} for s in (1.0, 2.0)], samples=0
    )
    question = Question(
        "clip_i", True, ("placement", "din", "dout", "scale"), "placement + din + scale + placement:scale"
    )
    register(few, question, [], 0)
    table = write_report(few, "clip_i", ["placement", "scale"]).page.parent / "tables" / "registered.csv"
    told = pd.read_csv(table, index_col="term")["decision"]
    assert told["din"] == "part of the placement, which is tested as one factor"
    assert told["placement:scale"] == "not tested: the model of this page has no such pair (--model adds it)"


def test_a_question_that_cannot_be_registered_is_told_before_any_work(sweeper_of, tmp_path):  # noqa: F811
    launcher, sweep = FakeLauncher(clip_i), [*SWEEP, f"output_root={tmp_path}"]
    for given, says in [
        ((*REGISTER, "hydra.sweeper.effects=lr"), "names lr, which this sweep does not vary"),
        (("hydra.sweeper.register=true",), "several scores; hydra.sweeper.metric names one"),
    ]:
        sweep = [*sweep, "task=finetune", "data=digits"] if len(given) == 1 else sweep
        with pytest.raises(ValueError, match=says):
            sweeper_of(*given, launcher=launcher).sweep(sweep)
    assert not launcher.launched and not (tmp_path / "asked" / FILE).exists()
