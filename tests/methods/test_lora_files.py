"""LoRA files of other tools, there and back."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import json
from types import SimpleNamespace

import pytest
import torch
from diffusers import FluxPipeline, StableDiffusion3Pipeline
from peft import LoraConfig, inject_adapter_in_model
from safetensors.torch import load_file, save_file
from tiny_transformers import run, tiny_transformer

from sdpet.commands.adapters import main
from sdpet.methods import Design, build, import_lora, load
from sdpet.methods.lora import LoraTuning
from sdpet.methods.lora_export import export_format

FILE = LoraTuning.FILE


@pytest.fixture
def saved(tiny_base, tmp_path):
    """A LoRA that changes something, its folder, and what the UNet predicts with it."""
    handle = build(tiny_base, Design("lora", rank=3, scale=0.5), 0)
    with torch.no_grad():
        for parameter in handle.parameters():
            parameter.normal_(std=0.1, generator=torch.Generator().manual_seed(parameter.numel()))
    handle.save(tmp_path / "run")
    out = predicted(tiny_base)
    handle.detach()
    return tmp_path / "run", out


@torch.no_grad()
def predicted(base):
    noisy = torch.randn(2, *base.latent_shape, generator=torch.Generator().manual_seed(0))
    return base.predict(noisy, torch.tensor(300), base.encode_text(["a red star", "a dog"]))


@pytest.mark.parametrize("kind", ["kohya", "comfy", "diffusers"])
def test_there_and_back_the_model_predicts_the_same(tiny_base, saved, tmp_path, kind, capsys):
    folder, expected = saved
    assert main(["export", str(folder), str(tmp_path / "web" / "lora.safetensors"), "--format", kind]) == 0
    assert main(["import-lora", str(tmp_path / "web" / "lora.safetensors"), str(tmp_path / "back")]) == 0
    assert "rank 3" in capsys.readouterr().out
    handle = load(tiny_base, tmp_path / "back")
    got = predicted(tiny_base)
    handle.detach()
    assert torch.allclose(got, expected, atol=1e-5)
    assert not torch.allclose(got, predicted(tiny_base), atol=1e-3)


@pytest.mark.parametrize("layers", [("attention", "feed_forward"), ("feed_forward",)])
def test_feed_forwards_of_a_file_are_what_peft_computes(tiny_base, tmp_path, layers):
    """A file of kohya's with alpha a half of the rank."""
    handle = LoraTuning(tiny_base, 2, layers=layers)
    paths = list(handle._paths.values())
    handle.detach()
    ends = {path.split("transformer_blocks.0.")[1] for path in paths}
    assert {"ff.net.0.proj", "ff.net.2"} <= ends and ("attn1.to_q" in ends) is (len(layers) == 2)
    made, source = {}, torch.Generator().manual_seed(0)
    twin = copy.deepcopy(tiny_base.unet)
    inject_adapter_in_model(LoraConfig(r=2, lora_alpha=1, target_modules=paths), twin)
    for path in paths:
        module, layer = twin.get_submodule(path), "lora_unet_" + path.replace(".", "_")
        for side, name in ((module.lora_A, "lora_down"), (module.lora_B, "lora_up")):
            side["default"].weight.data.normal_(std=0.1, generator=source)
            made[f"{layer}.{name}.weight"] = side["default"].weight.data.clone()
        made[f"{layer}.alpha"] = torch.tensor(1.0)
    save_file(made, tmp_path / "kohya.safetensors")
    assert import_lora(tmp_path / "kohya.safetensors", tmp_path / "back") == (len(paths), 2)
    handle = load(tiny_base, tmp_path / "back")
    got = predicted(tiny_base)
    export_format(tmp_path / "back", tmp_path / "again.safetensors", "kohya")
    handle.detach()
    assert torch.allclose(got, predicted(dataclasses.replace(tiny_base, unet=twin)), atol=1e-5)
    assert load_file(tmp_path / "again.safetensors").keys() == made.keys()


@pytest.mark.parametrize("family", ["sd3", "flux"])
def test_diffusers_pipelines_load_the_lora_of_a_transformer(family, tmp_path):
    model = tiny_transformer(family).float()
    handle = LoraTuning(SimpleNamespace(unet=model), 2, 0.5)
    with torch.no_grad():
        for parameter in handle.parameters():
            parameter.normal_(std=0.1, generator=torch.Generator().manual_seed(parameter.numel()))
    handle.save(tmp_path)
    expected = run(family, model, dtype=torch.float32)
    handle.detach()
    plain = run(family, model, dtype=torch.float32)
    kind = {"sd3": StableDiffusion3Pipeline, "flux": FluxPipeline}[family]
    rest = [name for name in inspect.signature(kind.__init__).parameters if name not in ("self", "transformer")]
    pipe = kind(**dict.fromkeys(rest), transformer=copy.deepcopy(model))
    pipe.load_lora_weights(tmp_path)
    torch.testing.assert_close(run(family, pipe.transformer, dtype=torch.float32), expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(plain, expected, atol=1e-3)

    former = {"unet." + key.removeprefix("transformer."): value for key, value in load_file(tmp_path / FILE).items()}
    save_file(former, tmp_path / FILE)  # as earlier versions wrote it, without a digest
    design = json.loads((tmp_path / "lora.json").read_text())
    (tmp_path / "lora.json").write_text(json.dumps({key: design[key] for key in ("rank", "scale")}))
    again = LoraTuning.load(SimpleNamespace(unet=model), tmp_path)
    torch.testing.assert_close(run(family, model, dtype=torch.float32), expected, rtol=1e-4, atol=1e-4)
    again.detach()
    with pytest.raises(ValueError, match="use --format diffusers"):
        export_format(tmp_path, tmp_path / "lora.safetensors", "kohya")


def test_layers_of_other_ranks_and_strengths_stay_what_they_were(tiny_base, saved, tmp_path):
    folder, expected = saved
    main(["export", str(folder), str(tmp_path / "lora.safetensors")])
    weights = load_file(tmp_path / "lora.safetensors")
    layer = next(key.removesuffix(".alpha") for key in weights if key.endswith(".alpha"))
    weights[f"{layer}.lora_up.weight"] = torch.cat([weights[f"{layer}.lora_up.weight"], torch.zeros(1)[None].expand(
        len(weights[f"{layer}.lora_up.weight"]), 2)], 1).contiguous()  # fmt: skip
    down = weights[f"{layer}.lora_down.weight"]
    weights[f"{layer}.lora_down.weight"] = torch.cat([down, torch.ones(2, down.shape[1])])  # rank 5
    weights[f"{layer}.alpha"] = weights[f"{layer}.alpha"] * 5 / 3 / 4
    weights[f"{layer}.lora_up.weight"] *= 4  # a quarter of the strength, four times the weights
    save_file(weights, tmp_path / "mixed.safetensors")
    assert import_lora(tmp_path / "mixed.safetensors", tmp_path / "back")[1] == 5
    handle = load(tiny_base, tmp_path / "back")
    got = predicted(tiny_base)
    handle.detach()
    assert torch.allclose(got, expected, atol=1e-5)


def test_what_cannot_be_converted_says_why(saved, tiny_base, tmp_path):
    from sdpet import AdapterSpec, attach

    folder, _ = saved
    main(["export", str(folder), str(tmp_path / "lora.safetensors")])
    weights = load_file(tmp_path / "lora.safetensors")
    weights["lora_te_text_model_final_layer_norm.alpha"] = torch.ones(())
    save_file(weights, tmp_path / "text.safetensors")
    with pytest.raises(ValueError, match=r"changes lora_te_text_model_final_layer_norm \(1 such layers\), which is no"):
        import_lora(tmp_path / "text.safetensors", tmp_path / "no")
    adapters = attach(tiny_base.unet, AdapterSpec.parse("attn2o-ffni", mid_dim=2), seed=0)
    adapters.save(tmp_path / "adapters")
    adapters.detach()
    with pytest.raises(ValueError, match="read at one place and write at another"):
        main(["export", str(tmp_path / "adapters"), str(tmp_path / "no.safetensors")])
    with pytest.raises(ValueError, match="holds no LoRA"):
        main(["export", str(tmp_path), str(tmp_path / "no.safetensors")])
