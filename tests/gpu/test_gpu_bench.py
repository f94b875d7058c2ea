"""bench/gpu.py: its arguments, and that no part can stop the others. What it measures is measured on a CUDA device."""

import importlib.util
import json
import os
import time
from pathlib import Path

import gpu_wheels
import pytest
import torch
from gpu_agreement import alone, difference, lab, one_process, together
from gpu_parts import PARTS, Part, expected_memory
from gpu_steps import Size

BENCH = Path(gpu_wheels.__file__).parent
specification = importlib.util.spec_from_file_location("bench_gpu", BENCH / "gpu.py")
bench = importlib.util.module_from_spec(specification)
specification.loader.exec_module(bench)
TINY = Size("cpu", tiny=True)


def well(size):
    yield {"side": size.side}


def ill(size):
    yield {"first": 1}
    raise RuntimeError("of no use")


def killed(size):
    yield {"first": 1}
    os._exit(7)


def endless(size):
    yield {"first": 1}
    time.sleep(600)


def run(tmp_path, seconds=60.0, **measures):
    parts = {name: Part(measure, 3.0 if measure is endless else 60.0, "") for name, measure in measures.items()}
    status = bench.run_parts(parts, TINY, tmp_path, seconds, {"device": "the CPU"})
    return status, {name: json.loads((tmp_path / f"{name}.json").read_text()) for name in parts}


def test_a_part_that_fails_stops_no_other(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(bench, "LEAST", 0.0)
    status, found = run(tmp_path, ill=ill, killed=killed, endless=endless, well=well)
    assert status == 1
    assert {name: part["status"] for name, part in found.items()} == {
        "ill": "failed", "killed": "failed", "endless": "failed", "well": "done",
    }  # fmt: skip
    assert found["ill"]["reason"] == "RuntimeError: of no use"
    assert found["killed"]["reason"] == "its process ended with status 7"
    assert found["endless"]["reason"] == "stopped after 3 s"
    assert all(found[name]["rows"] == [{"first": 1}] for name in ("ill", "killed", "endless"))
    assert found["well"]["rows"] == [{"side": 8}]
    assert json.loads(capfd.readouterr().out.splitlines()[-1])["parts"]["well"] == "done"


def test_a_part_without_time_is_said_to_be_not_measured(tmp_path):
    status, found = run(tmp_path, seconds=1.0, well=well)
    assert status == 1
    assert (found["well"]["status"], found["well"]["reason"]) == ("not measured", "no time was left")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--parts", "peak,speed"], "there is no part 'speed'; choose from peak, agreement"),
        (["--minutes", "0"], "must be a positive number, not '0'"),
        (["--minutes", "soon"], "must be a positive number, not 'soon'"),
    ],
)
def test_wrong_arguments_name_the_valid_ones(arguments, said, capsys):
    with pytest.raises(SystemExit):
        bench.main(arguments)
    assert said in capsys.readouterr().err


def test_parts_run_in_the_order_asked_for_and_help_names_them(capsys):
    assert bench._options(["--parts", "nccl, peak"]).parts == ["nccl", "peak"]
    assert bench._options([]).parts == list(PARTS)
    with pytest.raises(SystemExit):
        bench.main(["--help"])
    shown = capsys.readouterr().out
    assert all(f"  {name} " in shown and part.about in shown for name, part in PARTS.items())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_device_nothing_is_claimed(capsys, tmp_path):
    assert bench.main(["--out", str(tmp_path / "none")]) == 0
    assert capsys.readouterr().out == "not measured: no CUDA device\n"
    assert not (tmp_path / "none").exists()


def test_agreement_is_that_of_alike_runs_alone(monkeypatch):
    def gone(module):  # stands for the CPU, to which Lightning moves what a module holds when training has ended
        for parameter in module.parameters():
            parameter.data = torch.zeros_like(parameter)
        return module

    monkeypatch.setattr("sdpet.training.module.TrainingModule.cpu", gone)
    base, task = lab("cpu")
    one, other = (alone(base, task, number) for number in (0, 1))
    assert max(difference(together(base, task, 2)[1], other)) < 1e-4
    assert max(difference(alone(base, task, 0, one_process("cpu")[1]), one)) < 1e-4
    assert difference(alone(base, task, 0, weight_decay=1.0), one)[1] > 1e-4


def test_wheels_are_what_is_lacking_and_nothing_that_is_expected(tmp_path):
    taken, compiled = gpu_wheels.needed()
    assert {"diffusers", "hydra-core", "omegaconf", "antlr4-python3-runtime", "open-clip-torch", "wandb"} <= set(taken)
    assert "pydantic" in taken and "pydantic-core" in compiled  # wandb's, which no image has unless wandb is there
    assert not set(taken + compiled) & {"torch", "numpy", "lightning", "transformers", "peft", "torchmetrics"}
    (tmp_path / "lacking-1.0-cp27-none-any.whl").touch()
    with pytest.raises(SystemExit, match="is for another Python than"):
        gpu_wheels.use(tmp_path, tmp_path / "site")


@pytest.mark.parametrize(
    ("rows", "checkpointing", "measured"), [(1, False, 2.701), (4, False, 5.639), (4, True, 2.680)]
)
def test_the_memory_of_a_step_is_what_a_gpu_measured(rows, checkpointing, measured):
    """By this benchmark's part `doctor` on an H100 with torch 2.11 on 2026-11-26, in GiB, within 6 %."""
    expected = expected_memory(Size("cuda", tiny=False), "adapter", rows, torch.bfloat16, "bf16-mixed", checkpointing)
    assert expected / 2**30 == pytest.approx(measured, rel=0.06)


@pytest.mark.slow
def test_every_part_runs_at_a_tenth_of_the_size(tmp_path, capfd):
    assert bench.main(["--tiny", "--out", str(tmp_path)]) == 0
    found = {name: json.loads((tmp_path / f"{name}.json").read_text()) for name in PARTS}
    assert all(part["status"] == "done" and part["tiny"] for part in found.values())
    assert not any("failed" in row for part in found.values() for row in part["rows"])
    assert all(row["agrees"] for part in ("agreement", "nccl") for row in found[part]["rows"] if "agrees" in row)
    assert [row["K"] for row in found["fleet"]["rows"][1:]] == [1, 2]
    assert json.loads(capfd.readouterr().out.splitlines()[-1])["parts"] == dict.fromkeys(PARTS, "done")
