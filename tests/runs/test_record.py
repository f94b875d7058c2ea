"""Records on disk, and the identity of a run."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys

import pytest
from study_tools import ROOT, composed, environment, tiny_overrides

from sdpet import choices
from sdpet.adapters import INPUTS, OUTPUTS, PLACEMENTS, POSITIONS
from sdpet.config import identity, run_id, validate
from sdpet.config.ids import NEUTRAL_DEFAULTS
from sdpet.runs import Record, bin_loss, factors
from sdpet.runs.record import FILE

KEYS = [
    "format", "run_id", "study", "status", "factors", "task", "reason", "metrics", "anchors", "protocol", "missing",
    "sizes", "seconds", "peak_memory", "loss", "versions", "git_sha", "trained_in", "evaluations", "settings",
    "digests",
]  # fmt: skip


@pytest.fixture
def overrides(tiny_folder, subject_folders, tmp_path):
    return tiny_overrides(tiny_folder, subject_folders, tmp_path / "out")


def ids(overrides, *more):
    return run_id(validate(composed(*overrides, *more)))


def a_record(**more):
    return Record("0123456789ab", "mine", "finished", {"seed": 0}, {"name": "dreambooth"}, **more)


def test_a_record_has_every_key_and_reads_back_equal(tmp_path):
    record = a_record(
        metrics={"clip_i": 0.5}, loss=[[1, 2.5], [2, 1e-7]], anchors={"clip_i": {"floor": 0.1, "ceiling": None}}
    )
    record.write(tmp_path)
    assert sorted(json.loads((tmp_path / FILE).read_text())) == sorted(KEYS)
    assert Record.read(tmp_path) == record
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


def test_numbers_that_are_not_finite_become_null(tmp_path):
    a_record(metrics={"clip_i": math.nan}, loss=[[1, math.inf]]).write(tmp_path)
    text = (tmp_path / FILE).read_text()
    assert "NaN" not in text and "Infinity" not in text
    assert Record.read(tmp_path).metrics == {"clip_i": None}


def test_writing_is_atomic(tmp_path, monkeypatch):
    a_record(metrics={"clip_i": 0.5}).write(tmp_path)
    before = (tmp_path / FILE).read_bytes()
    with (tmp_path / FILE).open("rb") as reader:  # who is reading goes on with the whole old file
        a_record(metrics={"clip_i": 0.7}).write(tmp_path)
        assert reader.read() == before
    before = (tmp_path / FILE).read_bytes()
    monkeypatch.setattr("os.fsync", lambda descriptor: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError):
        a_record(metrics={"clip_i": 0.9}).write(tmp_path)
    assert (tmp_path / FILE).read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": 1}', '{"format": "x"}'])
def test_a_damaged_record_is_no_record(tmp_path, content):
    (tmp_path / FILE).write_text(content)
    assert Record.find(tmp_path) is None
    with pytest.raises(ValueError):
        Record.read(tmp_path)


def test_loss_is_binned_to_means():
    assert bin_loss([]) == []
    assert bin_loss([3.0, 1.0]) == [[1, 3.0], [2, 1.0]]
    binned = bin_loss(range(1000))
    assert len(binned) == 100
    assert binned[0] == [10, 4.5] and binned[-1] == [1000, 994.5]


@pytest.mark.parametrize(
    "same",
    [
        ["study=other"],
        ["quiet=true"],
        ["logger=csv"],
        ["output_root=elsewhere"],
        ["eval.chunk=1"],
        ["adapter.scale=1"],
        ["adapter=ffni-ffni", "adapter.din=attn2o"],
        ["unet.name=another_label"],
    ],
    ids=str,
)
def test_what_cannot_change_the_result_leaves_the_run_the_same(overrides, same):
    assert ids(overrides) == ids(overrides, *same)


@pytest.mark.parametrize(
    "other",
    [
        "seed=1", "adapter=ffni-ffni", "adapter.activation=silu", "adapter.scale=2", "adapter.mid_dim=4",
        "adapter.params=9", "adapter.init=default", "trainer.lr=1e-3",
        "trainer.steps=4", "trainer.batch_size=1", "trainer.threads=2",
        "task.reg_weight=0.5", "data.prompt=a sks thing", "sampler.guidance=3", "sampler=ddim", "eval.subject_images=2",
        "eval.eval_seed=0",
    ],
)  # fmt: skip
def test_what_can_change_the_result_makes_another_run(overrides, other):
    assert ids(overrides) != ids(overrides, other)


def test_data_and_weights_count_by_content_not_by_place(overrides, tiny_folder, subject_folders, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(subject_folders["subject"], moved)
    shutil.copytree(tiny_folder, tmp_path / "base")
    here = [f"data.subject_dir={moved}", f"unet.path={tmp_path / 'base'}"]
    assert ids(overrides) == ids(overrides, *here)
    shutil.copy(subject_folders["class"] / "00.png", moved / "00.png")
    changed_photo = ids(overrides, *here)
    assert changed_photo != ids(overrides)
    (tmp_path / "base" / "scheduler" / "scheduler_config.json").write_text("{}")
    assert ids(overrides, *here) != changed_photo


def test_every_default_enters_the_identity(overrides):
    """So that a run made under an old default is never taken for one under a new default."""
    config = validate(composed(*overrides))
    entered = identity(config)
    for group in ("adapter", "trainer"):
        values = config.values[group]
        shown = values.keys() - {"validate_every", "profiler"}  # which change no result
        # options that are off, and off means this value
        left_out = (NEUTRAL_DEFAULTS.get(group, {}).keys() & values.keys()) - entered[group].keys()
        off = {key: NEUTRAL_DEFAULTS[group][key] for key in left_out}
        assert entered[group] | off == {key: values[key] for key in shown}
    assert set(entered["task"]) | set(NEUTRAL_DEFAULTS["task"]) == set(config.values["task"])
    assert set(entered["eval"]) | set(NEUTRAL_DEFAULTS["eval"]) == set(config.values["eval"]) - {"chunk", "strict"}


def test_factors_of_full_tuning_are_null(overrides):
    found = factors(validate(composed(*overrides, "adapter=full")))
    assert found["method"] == "full"
    assert {found[key] for key in ("placement", "din", "dout", "activation", "mid_dim", "scale", "init")} == {None}
    assert found["lr"] < factors(validate(composed(*overrides)))["lr"]


def test_config_files_agree_with_the_table_of_positions(overrides):
    files = sorted(path.stem for path in (ROOT / "conf" / "adapter").glob("*-*.yaml"))
    assert files == sorted(PLACEMENTS)
    paper = {position.name: position.paper_name for position in POSITIONS}
    for name in PLACEMENTS:
        din, dout = name.split("-")
        text = f"# reads {paper[din]}, writes {paper[dout]}\ndin: {din}\ndout: {dout}\n"
        assert (ROOT / "conf" / "adapter" / f"{name}.yaml").read_text() == text
        found = factors(validate(composed(*overrides, f"adapter={name}")))
        assert (found["placement"], found["din"], found["dout"]) == (name, din, dout)


def test_the_rules_name_what_the_code_knows():
    """The closed sets need no torch; here they are held against the code that implements them."""
    from sdpet.adapters.forms import FORM_CLASSES
    from sdpet.methods import METHODS
    from sdpet.models import DTYPES
    from sdpet.runs.setup import _scorer_class
    from sdpet.tasks import TASKS

    assert set(choices.FORMS) == set(FORM_CLASSES)
    assert set(choices.METHODS) == set(METHODS) and set(choices.DTYPES) == set(DTYPES)
    assert set(choices.TASKS) == set(TASKS)
    made = {name: _scorer_class(name).__name__ for name in choices.SCORERS}
    assert made == {name: path.rpartition(".")[2] for name, path in choices.SCORERS.items()}
    assert set(INPUTS) > set(OUTPUTS)


def test_records_and_plans_need_no_torch():
    code = (
        "import sys, sdpet, sdpet.runs.record, sdpet.adapters.positions, sdpet.runs.start, sdpet.study.plan;"
        "import sdpet.study.launcher, sdpet.commands.cli;"
        "heavy = {'torch', 'diffusers', 'lightning', 'pandas', 'numpy'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], env=environment(), check=True)
