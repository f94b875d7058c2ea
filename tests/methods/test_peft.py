"""peft's methods: numbers of parameters, files, and whole runs. What all methods share is in test_methods.py."""

import json

import pytest
import torch
from omegaconf import OmegaConf
from peft import PeftModel
from study_tools import composed, tiny_overrides

from sdpet.choices import PEFT_METHODS
from sdpet.commands.adapters import main as adapters_command
from sdpet.commands.evaluate_runs import evaluate_again
from sdpet.config import InadmissibleCell, identity, run_id, validate
from sdpet.methods import Design, PeftSpec, build, load, nearest_spec
from sdpet.models import load_base
from sdpet.runs import Record, run

SCALED = ("dora", "lokr", "loha")


@pytest.fixture(scope="module")
def fresh(tiny_folder):
    return load_base("fresh", tiny_folder)


def design(method, size=3, **more):
    scale = {"scale": 1.0} if method in SCALED else {}
    return Design(method, peft=PeftSpec(method, **({} if method == "ia3" else {"size": size}), **scale, **more))


def attached_parameters(base, spec):
    handle = build(base, Design(spec.method, peft=spec))
    try:
        return handle.num_parameters()
    finally:
        handle.detach()


@pytest.mark.parametrize("method", [method for method in PEFT_METHODS if method != "ia3"])
def test_no_neighbouring_size_comes_nearer_to_the_number_of_parameters(tiny_base, method):
    """Against what the attached layers really have, for numbers between the smallest and a large one."""
    for params in (1, 24_000):
        found = nearest_spec(tiny_base.unet, design(method, 1).peft, params)
        distance = abs(attached_parameters(tiny_base, found) - params)
        for size in (found.size - 1, found.size + 1):
            if size >= 1 and not (method == "oft" and size < 2):
                other = PeftSpec(**{**vars(found), "size": size})
                assert distance <= abs(attached_parameters(tiny_base, other) - params), (params, found, size)
    if method not in ("oft", "loha"):  # whose steps are larger
        assert distance < 0.15 * 24_000


def test_lokr_splits_matrices_so_that_it_can_have_as_many_parameters(tiny_base):
    plain = PeftSpec("lokr", 1, 1.0, options={"decompose_factor": -1})
    most = attached_parameters(tiny_base, nearest_spec(tiny_base.unet, plain, 24_000))
    found = nearest_spec(tiny_base.unet, PeftSpec("lokr", 1, 1.0), 24_000)
    assert most < 12_000 and found.options["decompose_factor"] > 1
    assert nearest_spec(tiny_base.unet, plain, 24_000).options == plain.options  # what is given is kept


@pytest.mark.parametrize("method", PEFT_METHODS)
def test_peft_itself_reads_the_files(tiny_base, fresh, tmp_path, method):
    handle = build(tiny_base, design(method, 4), 3)
    with torch.no_grad():
        for parameter in handle.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)), alpha=0.02)
    noisy, text, t = torch.randn(2, *fresh.latent_shape), fresh.encode_text(["a star", ""]), torch.tensor([3, 700])
    with torch.no_grad():
        ours, plain = tiny_base.predict(noisy, t, text), fresh.predict(noisy, t, text)
        handle.detach()
        handle.save(tmp_path)  # after detach as well
        theirs = PeftModel.from_pretrained(fresh.unet, str(tmp_path))
        try:
            torch.testing.assert_close(fresh.predict(noisy, t, text), ours)
            assert not torch.allclose(ours, plain, atol=1e-4)
        finally:
            theirs.unload()
    assert json.loads((tmp_path / "adapter_config.json").read_text())["base_model_name_or_path"] is None


def test_new_weights_are_float32_in_a_half_precision_model(tiny_folder):
    base = load_base("half", tiny_folder, dtype="bfloat16")
    noisy, text = torch.randn(1, *base.latent_shape).to(base.dtype), base.encode_text(["a star"])
    for method in PEFT_METHODS:
        handle = build(base, design(method))
        assert {p.dtype for p in handle.parameters()} == {torch.float32}
        base.predict(noisy, torch.tensor(5), text).float().sum().backward()
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in handle.parameters()), method
        handle.detach()
    assert {p.dtype for p in base.unet.parameters()} == {torch.bfloat16}


def test_vera_draws_its_frozen_matrices_from_the_runs_seed(tiny_base):
    def frozen(seed):
        handle = build(tiny_base, design("vera"), seed)
        handle.detach()
        return handle._saved["base_model.vera_A"]

    assert torch.equal(frozen(0), frozen(0)) and not torch.equal(frozen(0), frozen(1))


@pytest.mark.parametrize("method", ["lokr", "ia3", "vera"])
def test_a_run_is_recorded_scored_again_and_shown(tiny_folder, subject_folders, tmp_path, capsys, method):
    from sdpet.runs.model_card import write_upload

    overrides = [*tiny_overrides(tiny_folder, subject_folders, tmp_path), f"adapter={method}", "quiet=true"]
    record = run(composed(*overrides))
    folder = tmp_path / "single" / record.run_id
    assert record.status == "finished" and record.factors["method"] == method, record.reason
    assert (record.factors["mid_dim"] is None) == (method == "ia3")
    given = OmegaConf.create({"run": str(folder), "quiet": True, "trust": True, "sampler": {"steps": 3}})
    evaluate_again(given, ["sampler.steps=3"])
    assert len(Record.read(folder).evaluations) == 1
    adapters_command(["show", str(folder)])
    shown, number = capsys.readouterr().out, f"{record.sizes['trainable_params']:,}"
    assert shown.startswith(method) and f"{number} parameters" in shown
    write_upload(folder, "me/mine", tmp_path / "card")
    card = (tmp_path / "card" / "README.md").read_text()
    assert f"| parameters | {number} |" in card and f"| method | {method}" in card
    assert (tmp_path / "card" / "adapter_config.json").exists() and "PeftModel.from_pretrained" in card


def test_targets_and_options_are_checked_before_work_and_identify_the_run(tmp_path):
    def checked(*overrides):
        return validate(composed(f"output_root={tmp_path}", *overrides))

    plain, factor = checked("adapter=lokr"), checked("adapter=lokr", "adapter.options.decompose_factor=4")
    some = checked("adapter=lokr", "adapter.targets=[to_q]")
    assert len({run_id(plain), run_id(factor), run_id(some)}) == 3
    assert identity(factor)["adapter"]["options"] == {"decompose_factor": 4}
    assert "options" not in identity(plain)["adapter"] and "targets" not in identity(plain)["adapter"]
    for overrides, words in (
        (["adapter=lokr", "adapter.options.decompose_factor=2.5"], r"decompose_factor \(int\)"),
        (["adapter=lokr", "+adapter.options.decompose=4"], "no option decompose=4"),
        (["adapter=ia3", "adapter.params=100"], "ia3 takes no params"),
        (["adapter=oft", "adapter.scale=2"], "oft takes no scale"),
        (["adapter=lora", "+adapter.targets=[to_q]"], "lora takes no targets"),
        (["adapter=dora", "adapter.targets=to_q"], "list of texts"),
    ):
        with pytest.raises((ValueError, InadmissibleCell), match=words):
            checked(*overrides)


def test_what_cannot_be_attached_or_read_is_one_sentence(tiny_base, fresh, tmp_path):
    with pytest.raises(ValueError, match=r"named 'to_x'; there are .*to_q, .*to_out.0"):
        build(tiny_base, design("dora", targets=("to_x",)))
    for wrong, words in (({"size": 2}, "needs a scale"), ({"scale": 1.0}, "needs a size"), ({"size": 0, "scale": 1.0},
                         "at least 1")):  # fmt: skip
        with pytest.raises(ValueError, match=words):
            PeftSpec("dora", **wrong)
    fresh.unet.fuse_qkv_projections()
    with pytest.raises(ValueError, match="unfuse_qkv_projections"):
        build(fresh, design("oft"))
    fresh.unet.unfuse_qkv_projections()  # diffusers' Attention keeps a mark of having been fused, which does not count
    build(fresh, design("oft")).detach()
    handle = build(tiny_base, design("loha"))
    handle.save(tmp_path)
    with pytest.raises(ValueError, match="already"):
        load(tiny_base, tmp_path)
    handle.detach()
    meta = json.loads((tmp_path / "peft.json").read_text())
    for change, words in (
        ({"size": 5}, "does not fit this UNet"),
        ({"method": "x"}, "cannot be read"),
        ({"options": {"use_dora": True}}, "no option use_dora"),
        ({"targets": "a"}, "list of names"),
    ):
        (tmp_path / "peft.json").write_text(json.dumps(meta | change))
        with pytest.raises(ValueError, match=words):
            load(tiny_base, tmp_path)
    build(tiny_base, design("ia3")).detach()  # nothing was left on the UNet
