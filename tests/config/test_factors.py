"""What varies in a study is a factor, under one name, when it is planned, recorded, logged and loaded."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import yaml
from study_tools import ROOT

import analysis
from sdpet.config import FACTORS, run_id, settings_of, shown_name, varying
from sdpet.config.schema import RULES
from sdpet.runs import Record, factors
from sdpet.study import Composer, make_plan
from sdpet.study.forecast import factors_of, levels_of
from sdpet.study.manifest import write_manifest
from sdpet.study.status import status_text, study_status


@pytest.fixture
def jobs_of(tmp_path):
    """A function: overrides -> the jobs of a sweep on the lab."""
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.types import RunMode

    from hydra_plugins.sdpet_sweeper import GridSweeper

    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        hydra = GlobalHydra.instance().hydra

        def jobs(*given):
            given = [f"output_root={tmp_path}", "study=s", *given]
            master = hydra.compose_config("config", given[:2], RunMode.MULTIRUN, from_shell=False)
            sweeper = GridSweeper({})
            sweeper.hydra_context = type("Context", (), {"config_loader": hydra.config_loader})
            return make_plan(Composer(hydra.config_loader, master), sweeper.combinations(given)).jobs

        yield jobs


def write(jobs, old=False):
    """A finished run of each job; as a version without settings in records wrote it, with old=True."""
    for number, job in enumerate(jobs):
        job.folder.mkdir(parents=True, exist_ok=True)
        known = {} if old else settings_of(job.config)
        levels = factors(job.config, job.config.adapter.mid_dim or 22)
        levels = {k: v for k, v in levels.items() if k in FACTORS} if old else levels
        record = Record(
            job.folder.name, "s", "finished", levels, {"name": job.config.task.name, "data": job.config.data.name}
        )
        record.settings, record.metrics = known, {"clip_i": 0.5 + 0.01 * number}
        record.protocol = {
            "sampler": job.config.values["sampler"],
            "images": job.config.values["eval"]["subject_images"],
        }
        (job.folder / "record.json").write_text(json.dumps(record.content()))
        stored = {key: value for key, value in job.config.values.items() if not (old and key == "asked")}
        (job.folder / "config.yaml").write_text(yaml.safe_dump(stored, sort_keys=False))
    return jobs[0].folder.parent


def loaded(folder: Path) -> dict[str, list]:
    frame = analysis.load_results(folder)
    return {name: sorted(set(frame[name].dropna())) for name in analysis.factor_columns(frame)}


def planned(jobs) -> dict[str, list]:
    rows, names = levels_of(jobs)
    return {name: sorted({row[name] for row in rows}) for name in names if name != "seed"}


@pytest.mark.parametrize(
    ("given", "levels"),
    [
        (["task.min_snr=null,5", "trainer.ema=null,0.9"], {"min_snr": ["5", "null"], "ema": ["0.9", "null"]}),
        (["trainer.batch_size=1,2"], {"batch_size": [1, 2]}),
        (["sampler=ddim,dpm"], {"sampler": ["ddim", "dpm"]}),  # their steps differ as well
        (["sampler=ddim,dpm", "sampler.steps=3,5"], {"sampler": ["ddim", "dpm"], "sampler.steps": [3, 5]}),
        (["trainer.steps=3,5", "sampler.steps=4,6"], {"steps": [3, 5], "sampler.steps": [4, 6]}),
        (["trainer.grad_checkpointing=true,false"], {"grad_checkpointing": ["false", "true"]}),
        (["adapter.params=9000,24000"], {"params": [9000, 24000]}),
        (["eval=lab,lab_full"], {"eval": ["lab", "lab_full"]}),
        (["eval.subject_images=2,3"], {"subject_images": [2, 3]}),
        (["eval.class_images=2,3"], {"eval.class_images": [2, 3]}),  # data.class_images ends alike
        (["data.prompt=a sks star,one sks star"], {"data.prompt": ["a sks star", "one sks star"]}),
        (["trainer.lr=1e-3,2e-3", "sampler.guidance=1,2"], {"lr": [1e-3, 2e-3], "guidance": [1.0, 2.0]}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_what_is_swept_is_planned_and_loaded_alike(jobs_of, given, levels):
    jobs = jobs_of(*given, "seed=0,1")
    assert planned(jobs) == levels
    assert loaded(write(jobs)) == levels


def test_a_placement_study_has_no_other_factors(jobs_of):
    jobs = jobs_of("adapter=attn2o-ffni,resi-reso", "seed=0,1")
    assert list(loaded(write(jobs))) == ["placement", "din", "dout"]
    assert list(Record.read(jobs[0].folder).factors) == list(FACTORS)  # nothing else was given


def test_options_given_in_some_commands_only_are_levels_too(jobs_of):
    """By hand, over several commands: the default of one command is a level beside the values of the others."""
    write(jobs_of("seed=0,1"))
    assert loaded(write(jobs_of("seed=0,1", "task.min_snr=5")))["min_snr"] == ["5", "null"]
    folder = write(jobs_of("seed=0,1", "trainer.warmup=3"))
    assert loaded(folder) == {"min_snr": ["5", "null"], "warmup": [0, 3]}
    given = [json.loads(path.read_text())["factors"] for path in folder.glob("*/record.json")]
    assert sorted(str(one.get("min_snr", "no")) for one in given) == ["5.0", "5.0", "no", "no", "no", "no"]


@pytest.mark.parametrize("mixed", [False, True])
def test_records_of_older_versions_are_read_with_their_configs(jobs_of, mixed):
    jobs = jobs_of("task.min_snr=null,5", "sampler=ddim,dpm")
    write(jobs[:2], old=True)
    assert loaded(write(jobs[2:], old=not mixed)) == {"min_snr": ["5", "null"], "sampler": ["ddim", "dpm"]}


def test_what_only_follows_a_choice_is_named_and_no_factor(jobs_of):
    jobs = [*jobs_of("task=dreambooth", "seed=0,1"), *jobs_of("task=finetune", "data=digits", "seed=0,1")]
    frame = analysis.load_results(write(jobs))
    assert analysis.factor_columns(frame) == ["task"]
    assert any("data, trainer.batch_size" in note and "task" in note for note in frame.attrs["notes"]), frame.attrs


def test_what_was_asked_for_changes_no_id(jobs_of):
    [job] = jobs_of("trainer.ema=0.9")
    assert job.config.values["asked"] == {
        "groups": {
            "unet": "lab",
            "data": "lab",
            "trainer": "cpu",
            "task": "dreambooth",
            "sampler": "dpm",
            "eval": "lab",
            "form": "bottleneck",
        },
        "keys": ["trainer.ema"],
    }
    assert run_id(job.config) == run_id(job.config.changed(asked={"groups": {}, "keys": []}))


def test_every_key_has_a_name_of_its_own():
    keys = [f"{group}.{key}" for group in RULES for key in RULES[group] if group and key != "_target_"]
    names = [shown_name(key) for key in keys]
    assert len(set(names)) == len(names)
    assert {shown_name(key) for key in FACTORS.values() if key} == set(FACTORS) - {"placement"}
    assert [shown_name(key) for key in ("form.gates", "form._target_", "eval.scorer.model")] == [
        "gates", "form", "scorer.model"
    ]  # fmt: skip


def test_ten_thousand_runs_are_judged_in_seconds(jobs_of):
    one = settings_of(jobs_of()[0].config)
    many = [
        {**one, "seed": i, "task.min_snr": (None, 5.0)[i % 2], "trainer.ema": (None, 0.9)[i // 2 % 2]}
        for i in range(10_000)
    ]
    began = time.process_time()
    found = varying(many)
    assert list(found.levels) == ["min_snr", "ema"]
    assert time.process_time() - began < 3


def test_a_file_of_the_frame_has_the_same_factors(jobs_of, tmp_path):
    folder = write(jobs_of("task.min_snr=null,5", "sampler=ddim,dpm", "eval.subject_images=2,3", "seed=0,1"))
    runs = analysis.load_results(folder)
    runs.to_csv(tmp_path / "runs.csv", index=False)
    again = analysis.load_results(tmp_path / "runs.csv")
    names = analysis.factor_columns(runs)
    assert set(names) == {"min_snr", "sampler", "subject_images"} == set(analysis.factor_columns(again))
    assert all(set(runs[name]) == set(again[name]) for name in names)


def test_the_status_of_a_study_lists_its_factors(jobs_of):
    jobs = jobs_of("task.min_snr=null,5", "seed=0,1")
    folder = write(jobs)
    write_manifest(folder, jobs, ["train.py", "-m"], factors=factors_of(jobs))
    write_manifest(folder, jobs, ["train.py", "-m"])  # as when seeds are added
    assert "  factors   min_snr (2), seed (2)" in status_text(study_status(folder))


def test_how_runs_are_computed_is_a_factor_only_where_it_was_compared(jobs_of):
    """Seeds that went on with other threads are replicates all the same, and a note says so."""
    write(jobs_of("adapter.scale=1,2", "seed=0"))
    folder = write(jobs_of("adapter.scale=1,2", "seed=1", "trainer.threads=2"))
    frame = analysis.load_results(folder)
    assert analysis.factor_columns(frame) == ["scale"]
    assert any("trainer.threads" in note for note in frame.attrs["notes"])
    write(jobs_of("adapter.scale=1,2", "seed=0", "trainer.threads=2"))
    assert analysis.factor_columns(analysis.load_results(folder)) == ["scale", "threads"]


def test_a_class_of_the_users_own_and_its_options_are_factors(jobs_of):
    """The class is the level of the optimiser, and its options are keys like any other."""
    sgd = ["+trainer/optimizer=custom", "trainer.optimizer._target_=torch.optim.SGD"]
    jobs = jobs_of(*sgd, "+trainer.optimizer.momentum=0,0.9", "seed=0,1")
    assert planned(jobs) == loaded(write(jobs)) == {"optimizer.momentum": [0, 0.9]}
    both = loaded(write(jobs_of("seed=0,1")))
    assert both["optimizer"] == ["default", "torch.optim.SGD"]
