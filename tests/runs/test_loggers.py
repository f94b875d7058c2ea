"""Loggers: what a run tells each of them is there to be read, and runs of one process stay apart."""

from __future__ import annotations

import csv
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from study_tools import ROOT, composed, tiny_overrides

from sdpet.config import run_folder, run_id, validate
from sdpet.runs import Record, run, run_together
from sdpet.runs.checkpoint import CheckpointSaver
from sdpet.runs.loggers.choose import open_log
from sdpet.runs.loggers.wandb import wandb_id
from sdpet.runs.setup import make_train_config

DIVERGING = "trainer.lr=1e30"


@pytest.fixture
def overrides(tiny_folder, subject_folders, tmp_path, monkeypatch):
    for key in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(key, raising=False)
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    yield [*tiny_overrides(tiny_folder, subject_folders, tmp_path / "outputs"), "quiet=true"]
    import wandb

    wandb.teardown()  # processes started later would share W&B's service with this one


def inspected(file: Path, *options: str) -> list[dict]:
    """An offline run as W&B's own tool reads it."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", *options, "--json", str(file)]
    out = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    return [json.loads(out)] if "--summary" in options else [json.loads(line) for line in out.splitlines()]


def offline_runs(study: Path, wandb_id: str) -> list[Path]:
    return sorted((study / "wandb").glob(f"offline-run-*-{wandb_id}*/*.wandb"))


def history(file: Path, key: str) -> dict[int, float]:
    items = [entry["history"]["item"] for entry in inspected(file) if entry["type"] == "history"]
    return {item["_step"]: item[key] for item in items if key in item}


def test_a_fleet_is_one_wandb_run_for_each_run(overrides, tmp_path):
    """Three runs open at once, one diverges: each W&B run holds its own, and all that its record holds."""
    each = (["seed=0"], ["seed=1"], ["seed=0", DIVERGING])
    configs = [composed(*overrides, "study=fleet", "logger=wandb", *own) for own in each]
    records = run_together(configs)
    assert [record.status for record in records] == ["finished", "finished", "diverged"]
    for record in records:
        (file,) = offline_runs(tmp_path / "outputs" / "fleet", wandb_id("fleet", record.run_id))
        summary = inspected(file, "--summary")[0]
        assert summary["state"] == ("finished" if record.status == "finished" else "failed")
        assert summary["name"] == f"attn2o-ffni seed {record.factors['seed']}"
        sent = summary["config"]
        assert {key: sent.get(key) for key in record.factors} == record.factors and sent["study"] == "fleet"
        kept = summary["summary"]
        apart = ("loss", "digests")  # digests are made of the files, when all are written
        expected = {key: value for key, value in record.content().items() if key not in apart}
        kept["record"].pop("digests")
        assert kept["record"] == json.loads(json.dumps(expected))
        assert {key: kept[key] for key in record.metrics} == record.metrics
        losses = history(file, "loss")
        if record.status == "finished":
            assert losses == {step: pytest.approx(loss, rel=1e-6) for step, loss in record.loss}
            pictures = kept["samples"]["filenames"]
            assert pictures and all((file.parent / "files" / name).is_file() for name in pictures)
            assert kept["sample_table"]["nrows"] == 2
        entries = inspected(file)
        assert next(e["run"]["run_group"] for e in entries if e["type"] == "run") == "fleet"
        (artifact,) = [e["artifact"] for e in entries if e["type"] == "artifact" and e["artifact"]["type"] == "adapter"]
        named = {entry["path"] for entry in artifact["manifest"]["contents"]}
        assert named == {"adapters.safetensors", "adapters.json"}


def test_a_run_that_fails_or_is_stopped_is_not_finished(overrides, tmp_path):
    """Failed by an error, stopped by Ctrl-C, then done: the same id all along, and the end it came to."""
    config = validate(composed(*overrides, "study=ends", "logger=wandb"))
    folder = run_folder(config)
    folder.mkdir(parents=True)
    own_id = wandb_id("ends", folder.name)
    for error, state, code in ((RuntimeError("no more memory"), "failed", 1), (KeyboardInterrupt(), "failed", 255)):
        with pytest.raises(type(error)), open_log(config, folder) as log:
            log.metrics(1, {"loss": 0.5})
            raise error
        summary = inspected(offline_runs(folder.parent, own_id)[-1], "--summary")[0]
        assert (summary["state"], summary["exit_code"]) == (state, code)
        assert summary["summary"]["status"] == ("failed" if code == 1 else "interrupted")
    assert run(config).status == "finished"
    states = [inspected(file, "--summary")[0]["state"] for file in offline_runs(folder.parent, own_id)]
    assert states == ["failed", "failed", "finished"]


def test_a_run_that_fails_before_it_trains_is_at_wandb_with_its_reason(overrides, tmp_path):
    config = composed(*overrides, "study=broken", "logger=wandb", "eval.scorer._target_=tiny_scorer.Nothing")
    record = run(config)
    assert record.status == "failed"
    (file,) = offline_runs(tmp_path / "outputs" / "broken", wandb_id("broken", record.run_id))
    summary = inspected(file, "--summary")[0]
    assert (summary["state"], summary["summary"]["status"]) == ("failed", "failed")
    assert summary["summary"]["reason"] == record.reason and "Nothing" in record.reason


def test_wandb_ids_follow_the_run_and_the_study():
    assert wandb_id("a", "0123") == wandb_id("a", "0123")
    assert len({wandb_id("a", "0123"), wandb_id("b", "0123"), wandb_id("a", "4567")}) == 3


def test_a_run_that_resumes_tells_wandb_all_of_it(overrides, tmp_path, monkeypatch):
    """Stopped in its fourth step and resumed from its second: rates, norms and validation images have no holes."""
    asked = ["study=holes", "trainer.steps=5", "trainer.validate_every=2", "checkpoint_seconds=1000", "logger=wandb"]
    shown = ["logger.tags=[first,try]", "logger.notes=some", 'logger.run_name="{task} lr {lr:g} of {study}"']
    config = validate(composed(*overrides, *asked, *shown))
    folder = run_folder(config)
    save = CheckpointSaver.__call__

    def saved_once(self, step, state):
        self._next = 0 if step == 2 else math.inf
        save(self, step, state)

    def stop(phase, done, *rest):
        if phase == "train" and done == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(CheckpointSaver, "__call__", saved_once)
    with pytest.raises(KeyboardInterrupt):
        run(config, progress=stop)
    assert run(config).status == "finished"
    first, second = offline_runs(folder.parent, wandb_id("holes", folder.name))
    keys = ("loss", "lr", "grad_norm", "validation.count")
    told = [{key: history(file, key) for key in keys} for file in (first, second)]
    assert [told[1][key].keys() for key in keys] == [{1, 2, 3, 4, 5}] * 3 + [{2, 4}]
    for key in ("loss", "lr", "grad_norm"):  # W&B, which keeps what came first, has the same numbers from both
        assert {step: told[1][key][step] for step in told[0][key]} == told[0][key] != {}
    summary, entries = inspected(second, "--summary")[0], inspected(second)
    sent = next(entry["run"] for entry in entries if entry["type"] == "run")
    assert summary["name"] == "dreambooth lr 0.003 of holes"
    assert (sent["tags"], sent["notes"]) == (["first", "try"], "some")
    assert run_id(config) == run_id(validate(composed(*overrides, "trainer.steps=5")))


def test_a_name_with_an_unknown_part_is_refused(overrides):
    with pytest.raises(ValueError, match=r"logger.run_name has \{rate\}; its names are name, study, .*lr"):
        validate(composed(*overrides, "logger=wandb", 'logger.run_name="at {rate}"'))


def test_a_logger_of_lightning_gets_metrics_settings_and_scores(overrides, tmp_path):
    target = "logger._target_=lightning.pytorch.loggers.CSVLogger"
    config = validate(composed(*overrides, "logger=custom", target, "+logger.flush_logs_every_n_steps=1"))
    record = run(config)
    folder = run_folder(config) / "logs"
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(int(row["step"]), float(row["loss"])) for row in rows if row["loss"]] == [
        (step, pytest.approx(loss)) for step, loss in record.loss
    ]
    scores = {f"scores/{key}": value for key, value in record.metrics.items()}
    assert {key: float(rows[-1][key]) for key in scores} == pytest.approx(scores)
    kept = yaml.safe_load((folder / "hparams.yaml").read_text())
    assert kept["lr"] == config.trainer.lr and kept["run_id"] == record.run_id
    assert record.run_id == run_id(validate(composed(*overrides)))
    for wrong, said in (
        ("logger._target_=lightning.pytorch.loggers.MLFlowLogger", "needs the package mlflow"),
        ("+logger.colour=red", "has no option colour"),
    ):
        with pytest.raises(ValueError, match=said):
            validate(composed(*overrides, "logger=custom", target, wrong))


def test_steps_that_wandb_has_are_not_told_again(overrides, monkeypatch, tmp_path):
    """A run resumed online, as a stand-in for W&B's run sees it: 1 and 2 are there already, and 3 is its next step."""
    import wandb

    calls = []

    class Resumed:
        step, resumed, summary = 3, True, {}

        def log(self, values, step=None):
            calls.append((step, values))

        def finish(self, exit_code):
            calls.append(("end", exit_code))

    monkeypatch.setattr(wandb, "init", lambda **asked: calls.append(asked) or Resumed())
    config = validate(composed(*overrides, "logger=wandb"))
    with open_log(config, run_folder(config)) as log:
        for step in range(1, 5):
            log.metrics(step, {"loss": 0.1 * step})
    asked, *rest = calls
    assert asked["id"] == wandb_id("single", run_folder(config).name) and asked["resume"] == "allow"
    assert asked["mode"] == "offline"  # auto, without an account
    assert [step for step, _ in rest] == [3, 4, "end"]


@pytest.mark.parametrize("logger", ["csv", "tensorboard"])
def test_losses_images_and_scores_are_read_back(overrides, logger, tmp_path):
    config = validate(composed(*overrides, f"logger={logger}"))
    record = run(config)
    folder = run_folder(config)
    if logger == "csv":
        with (folder / "loss.csv").open() as file:
            told = list(csv.DictReader(file))
        rows = [(int(row["step"]), float(row["loss"])) for row in told]
        rates = make_train_config(config)
        assert [float(row["lr"]) for row in told] == [rates.lr_at(step) for step in range(3)]
        assert all(float(row["grad_norm"]) > 0 for row in told)
    else:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        events = EventAccumulator(str(folder / "tensorboard")).Reload()
        rows = [(event.step, event.value) for event in events.Scalars("loss")]
        shown = {tag: events.Scalars(tag)[-1].value for tag in events.Tags()["scalars"] if tag.startswith("scores/")}
        assert shown == {f"scores/{k}": pytest.approx(v, rel=1e-6) for k, v in record.metrics.items()}
        assert events.Images("samples")
    assert rows == [(step, pytest.approx(loss, rel=1e-6)) for step, loss in record.loss]


def test_the_record_is_the_same_with_every_logger(overrides, tmp_path):
    """Where the loss goes changes no result: one run_id, one set of weights."""
    kept = []
    for logger in ("none", "tensorboard", "wandb"):
        config = composed(*overrides, f"logger={logger}", f"study=with_{logger}")
        record = run(config)
        assert record == Record.read(run_folder(validate(config)))
        kept.append((record.run_id, [value for _, value in record.loss], record.metrics))
    assert kept[0][:2] == kept[1][:2] == kept[2][:2]
    for _, _, metrics in kept:
        assert metrics == pytest.approx(kept[0][2], rel=1e-5)  # predicted noise: float32's last bit


def test_a_study_reads_the_same_from_wandb_as_from_its_folder(overrides, tmp_path, monkeypatch):
    """Offline runs through W&B's tool, a project through W&B's Api, the folder: one frame. No torch is needed."""
    import pandas as pd
    import wandb

    import analysis

    configs = [composed(*overrides, "study=three", "logger=wandb", f"seed={s}", *more)
               for s, more in ((0, []), (1, []), (2, [DIVERGING]))]  # fmt: skip
    run_together(configs)
    study = tmp_path / "outputs" / "three"
    folder = analysis.load_results(study, status=None).sort_values("seed", ignore_index=True)
    offline = analysis.load_results(study / "wandb", status=None).sort_values("seed", ignore_index=True)
    pd.testing.assert_frame_equal(
        offline.drop(columns="path"), folder.drop(columns="path"), check_like=True, check_dtype=False
    )
    assert sorted(analysis.metric_columns(offline)) == sorted(analysis.metric_columns(folder))

    summaries = [inspected(file, "--summary")[0] for file in sorted((study / "wandb").glob("offline-run-*/*.wandb"))]
    summaries.append({"run_id": "lost", "state": "crashed", "config": summaries[0]["config"] | {"run_id": "lost"},
                      "summary": {"loss": 0.5}})  # fmt: skip
    asked = []

    class Api:
        def runs(self, path, filters=None, **more):
            asked.append((path, filters))
            return [type("Run", (), {"id": s["run_id"], "state": s["state"], "config": s["config"],
                                     "summary_metrics": s["summary"], "url": "https://wandb/" + s["run_id"]})
                    for s in summaries]  # fmt: skip

    monkeypatch.setattr(wandb, "Api", Api)
    online = analysis.load_results("wandb:me/adapters/three", status=None).sort_values("seed", ignore_index=True)
    assert asked == [("me/adapters", {"group": "three"})]
    lost = online[online["run_id"] == "lost"].iloc[0]
    assert (lost["status"], lost["reason"]) == ("failed", "W&B says crashed")
    kept = online[online["run_id"] != "lost"].reset_index(drop=True)
    pd.testing.assert_frame_equal(
        kept.drop(columns="path"), folder.drop(columns="path"), check_like=True, check_dtype=False
    )

    code = (
        "import sys, analysis; "
        f"frame = analysis.load_results({str(study / 'wandb')!r}); assert len(frame) == 2, frame; "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
    with pytest.raises(ValueError, match=r"wandb:ENTITY/PROJECT"):
        analysis.load_results("wandb:adapters")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no"):
        analysis.load_results(tmp_path / "empty")


def test_an_offline_run_that_was_killed_is_not_finished(tmp_path):
    """By SIGKILL, so that W&B cannot say goodbye; tried again, the later try counts."""
    import analysis

    code = """
import sys, os, time, wandb
run = wandb.init(project="p", id="aa", dir=sys.argv[1], mode="offline", reinit="create_new", resume="allow",
                 config={"run_id": "aa", "study": "s", "din": "ffni", "dout": "transo", "seed": int(sys.argv[2])},
                 settings=wandb.Settings(silent=True, console="off"))
for step in range(2000):
    run.log({"loss": 1.0 / (step + 1), "note": "x" * 200}, step=step + 1)
if sys.argv[2] == "0":
    time.sleep(2)
    os.kill(os.getpid(), 9)
run.summary.update({"clip_i": 0.5, "record": {"run_id": "aa", "status": "finished", "metrics": {"clip_i": 0.5},
                                              "factors": {"seed": int(sys.argv[2])}}})
run.finish()
"""
    for seed, status in (("0", "unfinished"), ("1", "finished")):
        ended = subprocess.run([sys.executable, "-c", code, str(tmp_path), seed], check=False)
        assert ended.returncode == (-9 if seed == "0" else 0)
        frame = analysis.load_results(tmp_path, status=None)
        assert list(frame["status"]) == [status] and list(frame["seed"]) == [int(seed)]
