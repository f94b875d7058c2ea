"""Saving and loading: sdpet's folder and the reference code's."""

import json
import os
import pickle

import pytest
import safetensors.torch
import torch
from adapter_tools import V1, run, small_unet, write_reference
from diffusers import UNet2DConditionModel

from sdpet import AdapterSpec, attach, export_reference, load_adapters
from sdpet.adapters import PLACEMENTS
from sdpet.adapters.paper_format import compvis_paths

# The small UNet's blocks in both namings, written down by hand. diffusers: 1 layer a block down, 2 up.


def spec_of(placement, **form):
    return AdapterSpec.parse(placement, **{"mid_dim": 3, "scale": 2.0, "activation": "sig", "init": "default", **form})


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_round_trip_in_both_formats(placement, tmp_path):
    unet = small_unet()
    base = run(unet)
    adapters = attach(unet, spec_of(placement), seed=0)
    tuned = run(unet)
    adapters.save(tmp_path / "own")
    export_reference(unet, adapters, tmp_path / "500-adapters")
    adapters.detach()
    for folder, spec in (("own", None), ("500-adapters", adapters.spec)):
        fresh = load_adapters(unet, tmp_path / folder, spec)
        assert fresh.spec == adapters.spec and torch.equal(run(unet), tuned) and not torch.equal(tuned, base)
        fresh.detach()


@pytest.mark.parametrize("placement", ["attn2o-ffni", "resi-reso"])
def test_the_reference_codes_folder(placement, tmp_path):
    folder = tmp_path / "500-adapters"
    states = write_reference(folder, placement)
    adapters = load_adapters(small_unet(), folder, spec_of(placement))
    assert adapters.by_block.keys() == states.keys()
    for block, state in states.items():
        own = adapters.by_block[block].state_dict()
        assert own.keys() == state.keys() and all(torch.equal(own[key], state[key]) for key in state)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("missing", r"missing middle_block.1.transformer_blocks.0.adapter_inout.pt \(1 in all\)"),
        ("left over", r"left over input_blocks.9.1.transformer_blocks.0.adapter_inout.pt \(1 in all\)"),
        ("no spec", r"pass spec=AdapterSpec"),
        ("another width", r"has shape \(3, 32\) in .* but \(4, 32\) in the design"),
        ("another kind", r"missing input_blocks.1.0.adapter.pt.*left over input_blocks.1.1.transformer"),
        ("duplicate differs", "differ; remove the stale one"),
        ("unknown key", "left over down_blocks.0.attentions.0.*extra"),
        ("code", "not a state dict that can be read safely"),
    ],
)
def test_a_reference_folder_that_does_not_fit(damage, message, tmp_path):
    folder = tmp_path / "500-adapters"
    write_reference(folder, "attn2o-ffni")
    spec = spec_of("attn2o-ffni")
    middle = folder / "middle_block.1.transformer_blocks.0.adapter_inout.pt"
    first = folder / "input_blocks.1.1.transformer_blocks.0.adapter_inout.pt"
    bomb = tmp_path / "executed"

    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(bomb),)

    if damage == "missing":
        middle.unlink()
        middle.with_suffix(".adp.pt").unlink()
    elif damage == "left over":
        torch.save({}, folder / "input_blocks.9.1.transformer_blocks.0.adapter_inout.pt")
    elif damage == "no spec":
        spec = None
    elif damage == "another width":
        spec = spec_of("attn2o-ffni", mid_dim=4)
    elif damage == "another kind":
        spec = spec_of("resi-resi")
    elif damage == "duplicate differs":
        state = torch.load(middle)
        torch.save({key: value + 1 for key, value in state.items()}, middle)
    elif damage == "unknown key":
        first.with_suffix(".adp.pt").unlink()
        torch.save({**torch.load(first), "adp.extra": torch.zeros(1)}, first)
    elif damage == "code":
        middle.write_bytes(pickle.dumps({"adp.0.weight": Bomb()}, protocol=2))
    unet = small_unet()
    with pytest.raises(ValueError, match=message) as caught:
        load_adapters(unet, folder, spec)
    assert "\n" not in str(caught.value) and not bomb.exists()
    attach(unet, spec_of("attn2o-ffni"))  # the failed loading left nothing behind


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("no folder", "There is no folder"),
        ("empty", "holds neither adapters.json"),
        ("no weights", "adapters.safetensors cannot be read"),
        ("cut weights", "adapters.safetensors cannot be read"),
        ("bad json", "does not describe adapters"),
        ("new format", "format is 9"),
        ("bad spec", "does not describe adapters: Unknown position 'attn9'"),
        ("another spec", "holds adapters of another design than spec"),
        ("another unet", r"left over up_blocks.1.attentions.0.transformer_blocks.0 \(0.bias, 0.weight, 2.bias, 2.w"),
        ("larger unet", "missing down_blocks.0.attentions.0.transformer_blocks.1"),
    ],
)
def test_an_own_folder_that_does_not_fit(damage, message, tmp_path):
    folder, unet, spec = tmp_path / "saved", small_unet(), None
    adapters = attach(unet, spec_of("attn2o-ffni"))
    adapters.save(folder)
    adapters.detach()
    design = json.loads((folder / "adapters.json").read_text())
    if damage == "no folder":
        folder = tmp_path / "other"
    elif damage == "empty":
        (folder / "adapters.json").unlink()
    elif damage == "no weights":
        (folder / "adapters.safetensors").unlink()
    elif damage == "cut weights":
        (folder / "adapters.safetensors").write_bytes((folder / "adapters.safetensors").read_bytes()[:500])
    elif damage == "bad json":
        (folder / "adapters.json").write_text("{")
    elif damage == "new format":
        (folder / "adapters.json").write_text(json.dumps({**design, "format": 9}))
    elif damage == "bad spec":
        (folder / "adapters.json").write_text(json.dumps({**design, "spec": {**design["spec"], "din": "attn9"}}))
    elif damage == "another spec":
        spec = spec_of("attn2o-transo")
    elif damage == "another unet":
        unet = small_unet(up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"))
    elif damage == "larger unet":
        unet = small_unet(transformer_layers_per_block=2)
    with pytest.raises(ValueError, match=message):
        load_adapters(unet, folder, spec)
    if damage not in ("another unet", "larger unet"):
        attach(unet, spec_of("attn2o-ffni"))


def test_saving_is_atomic(tmp_path, monkeypatch):
    unet = small_unet()
    adapters = attach(unet, spec_of("attn2o-ffni"), seed=0)
    adapters.save(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert before.keys() == {"adapters.safetensors", "adapters.json"}
    with torch.no_grad():
        next(adapters.parameters()).add_(1)

    def fail(*args):
        raise OSError("the disk is full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk is full"):
        adapters.save(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_the_pipeline_saves_the_unet_without_the_adapters(tmp_path):
    unet = small_unet()
    unet.save_pretrained(tmp_path / "before")
    attach(unet, spec_of("attn2o-ffni"))
    unet.save_pretrained(tmp_path / "after")
    name = "diffusion_pytorch_model.safetensors"
    assert (tmp_path / "before" / name).read_bytes() == (tmp_path / "after" / name).read_bytes()


def test_paths_of_stable_diffusion_v1():
    with torch.device("meta"):
        paths = compvis_paths(UNet2DConditionModel(**V1))
    attention = {path for block, path in paths.items() if ".attentions." in block}
    resnets = {path for block, path in paths.items() if ".resnets." in block}
    assert attention == {f"input_blocks.{i}.1" for i in (1, 2, 4, 5, 7, 8)} | {"middle_block.1"} | {
        f"output_blocks.{i}.1" for i in range(3, 12)
    }
    assert resnets == {f"input_blocks.{i}.0" for i in (1, 2, 4, 5, 7, 8, 10, 11)} | {
        "middle_block.0", "middle_block.2"
    } | {f"output_blocks.{i}.0" for i in range(12)}  # fmt: skip
    assert paths["down_blocks.2.attentions.1"] == "input_blocks.8.1"
    assert paths["up_blocks.1.attentions.2"] == "output_blocks.5.1"


@pytest.mark.parametrize("prefix", ["module.", "base_model.model.", "_orig_mod.module."])
def test_what_a_wrapped_model_saved_loads(tiny_base, tmp_path, prefix):
    """As nn.DataParallel, peft and torch.compile name what they wrap; also into a wrapped model."""
    spec = AdapterSpec.parse("attn2o-ffni", mid_dim=3, init="default")
    adapters = attach(tiny_base.unet, spec, seed=0)
    adapters.save(tmp_path)
    adapters.detach()
    weights = safetensors.torch.load_file(tmp_path / "adapters.safetensors")
    safetensors.torch.save_file({prefix + k: v for k, v in weights.items()}, tmp_path / "adapters.safetensors")
    design = json.loads((tmp_path / "adapters.json").read_text())
    del design["digest"]  # as of a program that writes none
    (tmp_path / "adapters.json").write_text(json.dumps(design))
    for model in (tiny_base.unet, torch.nn.DataParallel(tiny_base.unet)):
        loaded = load_adapters(model, tmp_path)
        assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), adapters.parameters(), strict=True))
        loaded.detach()
