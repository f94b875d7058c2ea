"""LoRA files of kohya's scripts, LyCORIS, diffusers and peft, on random UNets with the blocks of v1, v2.1 and XL.

References: diffusers' and peft's own loaders, and weights that are changed by hand in float64.
"""

from __future__ import annotations

import copy
from functools import partial
from types import SimpleNamespace

import pytest
import tiny_models
import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from omegaconf import OmegaConf
from peft import LoHaConfig, LoKrConfig, LoraConfig, inject_adapter_in_model
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from study_tools import composed, tiny_overrides
from torch import nn

from sdpet.commands.adapters import main
from sdpet.commands.evaluate_runs import evaluate_again
from sdpet.config import run_id, validate
from sdpet.methods import FileTuning, export_format, import_lora, load
from sdpet.methods.layer_names import layer_path
from sdpet.models.base import BaseModel
from sdpet.runs import Record, run

IDS = torch.tensor([[49406, 320, 1125, 539, 49407]])
KINDS = ("v1", "sdxl")  # v2.1 has the linear layers of XL in the blocks of v1
ENCODERS = ("text_encoder", "text_encoder_2")


@pytest.fixture(scope="module")
def models():
    """Random parts of pipelines by kind; a test leaves them as they were."""
    return {kind: tiny_models.parts(kind) for kind in KINDS}


@pytest.fixture(scope="module")
def small():
    """A random UNet of two levels, with convolutions as proj_in."""
    kinds = {"down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
             "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D")}  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = tiny_models.UNETS["v1"] | kinds | {"block_out_channels": (8, 16), "layers_per_block": 1}
        return UNet2DConditionModel(**config).eval()


def base_of(parts):
    return BaseModel(**parts, name="tiny", weight_hash="")


def doubled(parts):
    return {name: copy.deepcopy(p).double() if isinstance(p, nn.Module) else p for name, p in parts.items()}


@torch.no_grad()
def outputs(parts):
    """What each text encoder gives, and the UNet for fixed states."""
    unet, source = parts["unet"], torch.Generator().manual_seed(0)
    found = [parts[name](IDS).last_hidden_state for name in ENCODERS if name in parts]

    def drawn(*shape):
        return torch.randn(*shape, generator=source).to(unet.dtype)

    more = {}
    if unet.config.addition_embed_type:
        more["added_cond_kwargs"] = {"text_embeds": drawn(1, 24), "time_ids": drawn(1, 6)}
    return [*found, unet(drawn(1, 4, 8, 8), 500, drawn(1, 5, unet.config.cross_attention_dim), **more).sample]


def close(found, wanted, atol):
    return all(torch.allclose(a.double(), b.double(), rtol=0, atol=atol) for a, b in zip(found, wanted, strict=True))


def kohya_layers(kind, parts):
    """Every linear layer and convolution, with the name that kohya's scripts give it: of XL's UNet the original one."""
    for part in ("unet", *ENCODERS):
        begins = {"unet": "lora_unet_", "text_encoder": "lora_te1_" if kind == "sdxl" else "lora_te_"}
        for path, module in parts[part].named_modules() if part in parts else ():
            if isinstance(module, nn.Linear | nn.Conv2d):
                name = path
                if part == "unet" and kind == "sdxl":
                    name = tiny_models.unet_name(f"{path}.weight", kind).removesuffix(".weight")
                elif part != "unet" and not path.startswith(("text_model", "text_projection")):
                    name = f"text_model.{path}"
                yield begins.get(part, "lora_te2_") + name.replace(".", "_"), module


def kohya_file(kind, parts):
    """LoRA of all these layers, as kohya's scripts write it; ranks and strengths differ from layer to layer."""
    made, source = {}, torch.Generator().manual_seed(1)
    for number, (name, module) in enumerate(kohya_layers(kind, parts)):
        rank, (c_out, c_in, *kernel) = 1 + number % 3, module.weight.shape
        made[f"{name}.lora_down.weight"] = torch.randn(rank, c_in, *kernel, generator=source)
        made[f"{name}.lora_up.weight"] = 0.1 * torch.randn(c_out, rank, *[1] * len(kernel), generator=source)
        # diffusers 0.42 reads one alpha for all layers of attention and of text encoders, so theirs are equal here
        is_even = "_attn" in name or name.startswith("lora_te")
        made[f"{name}.alpha"] = torch.tensor(1.0 if is_even else 0.5 + number % 2)
    return made


def merged(kind, parts, made, strength=1.0):
    """The parts in float64 with W + strength * alpha / r * up @ down in place of W."""
    twin = doubled(parts)
    for name, module in kohya_layers(kind, twin):
        up, down = (made[f"{name}.lora_{side}.weight"].double() for side in ("up", "down"))
        factor = strength * float(made[f"{name}.alpha"]) / len(down)
        module.weight.data += factor * torch.einsum("or,r...->o...", up.flatten(1), down)
    return twin


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_of_all_layers_is_what_merged_weights_and_diffusers_compute(models, kind, tmp_path):
    parts = models[kind]
    made, base, plain = kohya_file(kind, parts), base_of(parts), outputs(parts)
    wanted, weaker, exact = outputs(merged(kind, parts, made)), outputs(merged(kind, parts, made, 0.3)), doubled(parts)
    save_file(made, tmp_path / "theirs.safetensors", {"ss_network_dim": "3", "ss_network_alpha": "1", "format": "pt"})
    assert import_lora(tmp_path / "theirs.safetensors", tmp_path / "in") == (len(made) // 3, 3)
    handle = load(base, tmp_path / "in", strict=True)
    ours = outputs(parts)
    assert close(ours, wanted, 1e-5)
    assert not any(torch.allclose(a, b, atol=0.1) for a, b in zip(ours, plain, strict=True))
    handle.scale(0.3)
    assert close(outputs(parts), weaker, 1e-5)
    handle.save(tmp_path / "saved")
    for quiet, undo in ((lambda: handle.scale(0), lambda: handle.scale(1)), (handle.disable, handle.enable)):
        quiet()
        assert all(torch.equal(a, b) for a, b in zip(outputs(parts), plain, strict=True))
        undo()
    handle.detach()
    assert all(torch.equal(a, b) for a, b in zip(outputs(parts), plain, strict=True))
    FileTuning.load(base_of(exact), tmp_path / "saved")
    assert close(outputs(exact), wanted, 1e-12)
    pipe = tiny_models.pipeline(kind, parts)
    export_format(tmp_path / "saved", tmp_path / "exported.safetensors", "diffusers")
    for name in ("theirs", "exported"):
        pipe.load_lora_weights(tmp_path, weight_name=f"{name}.safetensors")
        assert close(outputs(parts), ours, 1e-5)
        pipe.unload_lora_weights()
    export_format(tmp_path / "saved", tmp_path / "again.safetensors", "kohya")
    import_lora(tmp_path / "again.safetensors", tmp_path / "back")
    assert (tmp_path / "back" / FileTuning.FILE).read_bytes() == (tmp_path / "in" / FileTuning.FILE).read_bytes()


def test_every_layer_has_its_names():
    for kind, config in tiny_models.UNETS.items():
        with torch.device("meta"):
            unet = UNet2DConditionModel(**config)
        layers = [path for path, module in unet.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)]
        assert len(layers) > 250
        for path in layers:
            original = tiny_models.unet_name(f"{path}.weight", kind).removesuffix(".weight")
            begins = ("unet.", "", "base_model.model.", "diffusion_model.", "lora_unet_", "lora_unet_")
            names = (path, path, path, original, path.replace(".", "_"), original.replace(".", "_"))
            assert {layer_path(a + b) for a, b in zip(begins, names, strict=True)} == {f"unet.{path}"}


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.processor.to_out_lora",
         "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0"),
        ("mid_block.attentions.0.proj_in.lora", "unet.mid_block.attentions.0.proj_in"),
        ("text_encoder.text_model.encoder.layers.1.self_attn.to_q_lora",
         "text_encoder.text_model.encoder.layers.1.self_attn.q_proj"),
        ("text_encoder_2.text_model.encoder.layers.1.mlp.fc1.lora_linear_layer",
         "text_encoder_2.text_model.encoder.layers.1.mlp.fc1"),
        ("text_encoder.encoder.layers.0.mlp.fc2", "text_encoder.text_model.encoder.layers.0.mlp.fc2"),
        ("transformer.transformer_blocks.0.attn.to_q", "transformer.transformer_blocks.0.attn.to_q"),
        ("lora_unet_down_blocks_0_resnets_0_norm1", None),
        ("lora_unet_double_blocks_0_img_attn_proj", None),
        ("lora_te_text_model_final_layer_norm", None),
        ("bundle_emb.sks", None),
    ],
)  # fmt: skip
def test_older_and_unknown_names(name, path):
    assert layer_path(name) == path


BLOCK = "down_blocks.0.attentions.0"
LAYERS = {  # a linear layer, a convolution of one pixel, and one of nine
    "linear": f"{BLOCK}.transformer_blocks.0.ff.net.2",
    "pixel": f"{BLOCK}.proj_in",
    "kernel": "mid_block.resnets.0.conv1",
}


def drawn(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def own_file(what, weight):
    """The factors of one layer, and its new weight in float64, each entry by its definition."""
    c_out, c_in, *kernel = weight.shape
    pixels, r, weight = weight[0, 0].numel(), 2, weight.double()
    if what in ("rows", "columns"):
        down, up = drawn(r, c_in, *kernel), drawn(c_out, r, *[1] * len(kernel))
        whole = weight + (up.flatten(1) @ down.flatten(1)).double().reshape(weight.shape) / 4
        other = [n for n in range(weight.dim()) if n != (what == "columns")]
        norm = whole.square().sum(other, keepdim=True).sqrt()
        lengths = (1 + 0.3 * drawn(*norm.shape).abs()).float()
        return {"lora_down.weight": down, "lora_up.weight": up, "alpha": 0.5, "dora_scale": lengths}, (
            lengths.double() * whole / norm
        )
    if what == "core":
        down, core, up = drawn(r, c_in, 1, 1), drawn(r, r, *kernel), drawn(c_out, r, 1, 1)
        new = weight + 0.25 * sum(
            up[:, i, 0, 0][:, None, None, None] * core[i, j] * down[j, :, 0, 0][None, :, None, None]
            for i in range(r) for j in range(r)
        ).double()  # fmt: skip
        return {"lora_down.weight": down, "lora_up.weight": up, "lora_mid.weight": core, "alpha": 0.5}, new
    if what == "loha":
        a1, b1, a2, b2 = drawn(c_out, r), drawn(r, c_in * pixels), drawn(c_out, r) + 1, drawn(r, c_in * pixels) - 1
        change = (a1.double() @ b1.double()) * (a2.double() @ b2.double())
        return {"hada_w1_a": a1, "hada_w1_b": b1, "hada_w2_a": a2, "hada_w2_b": b2, "alpha": 0.5}, (
            weight + 0.25 * change.reshape(weight.shape)
        )
    if what == "loha core":
        a, b, t = ({n: drawn(*shape) * n for n in (1, 2)} for shape in ((r, c_out), (r, c_in), (r, r, *kernel)))
        one, two = (sum(a[n][i, :, None, None, None] * b[n][j, None, :, None, None] * t[n][i, j]
                        for i in range(r) for j in range(r)) for n in (1, 2))  # fmt: skip
        factors = {f"hada_{letter}{n}{end}": of[n] for letter, end, of in (("w", "_a", a), ("w", "_b", b), ("t", "", t))
                   for n in (1, 2)}  # fmt: skip
        return {**factors, "alpha": 0.5}, weight + 0.25 * (one.double() * two.double())
    second = drawn(c_out // 2, c_in // 4, *kernel)
    first = drawn(2, 4)
    change = torch.cat([torch.cat([x * second for x in row], 1) for row in first], 0)
    if what == "lokr":
        return {"lokr_w1": first, "lokr_w2": second, "alpha": 1e9}, weight + change.double()
    a, b = drawn(c_out // 2, r), drawn(r, c_in // 4 * pixels)
    second = (a @ b).reshape(second.shape)
    change = torch.cat([torch.cat([x * second for x in row], 1) for row in first], 0)
    return {"lokr_w1": first, "lokr_w2_a": a, "lokr_w2_b": b, "alpha": 0.5}, weight + 0.25 * change.double()


CASES = [(what, layer) for what in ("rows", "columns", "loha", "lokr", "lokr low rank") for layer in LAYERS]
CASES += [("core", "kernel"), ("loha core", "kernel")]


def test_each_kind_is_the_weight_of_its_definition(models, tmp_path):
    unet = models["v1"]["unet"]
    for what, layer in CASES:
        path = LAYERS[layer]
        module = unet.get_submodule(path)
        factors, weight = own_file(what, module.weight.detach())
        name = "lora_unet_" + path.replace(".", "_")
        named = {f"{name}.{key}": torch.as_tensor(value).contiguous() for key, value in factors.items()}
        save_file(named, tmp_path / "file.safetensors")
        import_lora(tmp_path / "file.safetensors", tmp_path / "in")
        export_format(tmp_path / "in", tmp_path / "again.safetensors", "kohya")
        import_lora(tmp_path / "again.safetensors", tmp_path / "back")
        x = drawn(2, module.weight.shape[1], *[6] * (module.weight.dim() - 2))
        old, new = ((w.double(), module.bias.detach().double()) for w in (module.weight.detach(), weight))
        function = F.linear if layer == "linear" else partial(F.conv2d, padding=module.weight.shape[-1] // 2)
        before, after = (function(x.double(), *of) for of in (old, new))
        assert not torch.allclose(before, after, atol=0.1)
        for folder in ("in", "back"):
            handle = FileTuning.load(SimpleNamespace(unet=unet), tmp_path / folder)
            for strength in (1.0, 0.5):
                handle.scale(strength)
                wanted = before + strength * (after - before)
                torch.testing.assert_close(module(x).double(), wanted, rtol=1e-5, atol=1e-3)
            handle.detach()


ENDS = ["attn1.to_q", "attn2.to_out.0", "ff.net.0.proj", "proj_out", "conv2", "conv_shortcut", "time_emb_proj", "conv"]
PEFTS = {
    "lora": lambda: LoraConfig(r=3, lora_alpha=2, use_rslora=True, target_modules=ENDS),
    "dora": lambda: LoraConfig(r=2, lora_alpha=3, use_dora=True, target_modules=ENDS),
    "patterns": lambda: LoraConfig(r=2, lora_alpha=3, target_modules=ENDS, rank_pattern={"proj_out": 4},
                                   alpha_pattern={"attn1.to_q": 8, "mid_block.resnets.0.conv2": 1}),
    "loha": lambda: LoHaConfig(r=2, alpha=3, target_modules=ENDS, use_effective_conv2d=True),
    "lokr": lambda: LoKrConfig(r=2, alpha=3, target_modules=ENDS, use_effective_conv2d=True, decompose_both=True),
    "lokr whole": lambda: LoKrConfig(r=16, alpha=4, target_modules=ENDS),
}  # fmt: skip


@pytest.mark.parametrize("name", PEFTS)
def test_files_of_peft_are_what_peft_computes(small, name, tmp_path):
    parts, config = {"unet": small}, PEFTS[name]()
    twin = copy.deepcopy(parts["unet"])
    inject_adapter_in_model(config, twin)
    source = torch.Generator().manual_seed(0)
    for key, parameter in twin.named_parameters():
        if any(word in key for word in ("lora_", "hada_", "lokr_")):
            parameter.data += 0.2 * torch.randn(parameter.shape, generator=source)
    wanted = outputs({"unet": twin})[0]
    state = get_peft_model_state_dict(twin, adapter_name="default")
    file = tmp_path / "adapter_model.safetensors"
    save_file({f"base_model.model.{key}": value.contiguous() for key, value in state.items()}, file)
    with pytest.raises(ValueError, match=r"strengths in adapter_config\.json; put that file beside it"):
        import_lora(file, tmp_path / "in")
    config.save_pretrained(tmp_path)
    import_lora(file, tmp_path / "in")
    handle = FileTuning.load(SimpleNamespace(**parts), tmp_path / "in")
    torch.testing.assert_close(outputs(parts)[0], wanted, rtol=0, atol=1e-5)
    handle.detach()
    assert not torch.allclose(outputs(parts)[0], wanted, atol=1e-2)


def plain_file(path="unet.mid_block.attentions.0.proj_in", c_out=16, c_in=16):
    return {f"{path}.lora_A.weight": drawn(2, c_in), f"{path}.lora_B.weight": drawn(c_out, 2)}


def kohya(name, **parts):
    return {f"lora_unet_mid_block_{name}.{part}": torch.as_tensor(value) for part, value in parts.items()}


def test_half_precision_and_files_alongside_each_other(models, tmp_path):
    """Files in bfloat16 and half precision, without alpha, add up; so do their strengths on the command line."""
    unet = models["v1"]["unet"]
    base, plain = SimpleNamespace(unet=unet), outputs({"unet": unet})[0]
    changes = []
    for number, dtype in enumerate((torch.bfloat16, torch.float16)):
        path = f"mid_block.attentions.0.proj_{('in', 'out')[number]}"
        made = {key: value.to(dtype) for key, value in plain_file(f"unet.{path}").items()}
        save_file(made, tmp_path / "file.safetensors")
        import_lora(tmp_path / "file.safetensors", tmp_path / str(number))
        down, up = (value.float() for value in made.values())
        changes.append((path, 0.5 * up @ down))
    handles = [load(base, tmp_path / str(number), alongside=True) for number in range(2)]
    for handle in handles:
        handle.scale(0.5)
    ours, copied = outputs({"unet": unet})[0], copy.deepcopy(unet)
    for handle in handles:
        handle.scale(0)
    assert torch.equal(outputs({"unet": copied})[0], ours)  # a copy keeps its own
    with pytest.raises(ValueError, match="carries the updates of a LoRA file already"):
        load(base, tmp_path / "0")
    for handle in handles:
        handle.detach()
    assert torch.equal(outputs({"unet": unet})[0], plain)
    for path, change in changes:
        unet.get_submodule(path).weight.data += change[:, :, None, None]
    torch.testing.assert_close(outputs({"unet": unet})[0], ours, rtol=0, atol=1e-5)
    for path, change in changes:
        unet.get_submodule(path).weight.data -= change[:, :, None, None]


UP, DOWN = torch.ones(16, 2), torch.ones(2, 16)
REFUSED = {
    "oft": (kohya("attentions_0_proj_in", oft_blocks=DOWN), r"holds none of LoRA, DoRA, LoHa and LoKr of linear"),
    "norm": (plain_file() | {"lora_unet_mid_block_resnets_0_norm1.w_norm": UP},
             r"holds w_norm of the layer lora_unet_mid_block_resnets_0_norm1 \(1 such layers\)"),
    "bias": (plain_file() | {"unet.conv_in.lora_B.bias": UP}, r"holds bias of the layer unet.conv_in.lora_B"),
    "flux": ({"lora_unet_double_blocks_0_img_mlp_0.lora_down.weight": DOWN},
             r"changes lora_unet_double_blocks_0_img_mlp_0 \(1 such layers\), which is no linear layer"),
    "half": (kohya("attentions_0_proj_in", **{"lora_down.weight": DOWN}), r"holds lora_down of the layer unet"),
    "mixed": (kohya("attentions_0_proj_in", lora_down=DOWN, lora_up=UP, lokr_w1=UP + 1), r"are not the factors of a"),
    "twice": (plain_file() | kohya("attentions_0_proj_in", lora_down=DOWN, lora_up=UP), r"lora_A of unet.mid_block.*"
              "twice, under two names"),
    "core": (kohya("resnets_0_conv1", lora_down=DOWN, lora_up=UP, lora_mid=torch.ones(2, 3, 3, 3)), r"lora_mid of the"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_files_that_hold_more_are_refused(what, tmp_path, capsys):
    made, said = REFUSED[what]
    save_file(made, tmp_path / "file.safetensors")
    with pytest.raises(ValueError, match=said):
        main(["import-lora", str(tmp_path / "file.safetensors"), str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_what_does_not_fit_the_model_is_named(models, tmp_path, capsys):
    wrong = {
        "is no layer of this model": plain_file("unet.down_blocks.3.attentions.0.proj_in"),
        "of 16 x 16 numbers, and the file's update is of 16 x 8": plain_file(c_in=8),
        "has 3 lengths of DoRA": plain_file()
        | {"unet.mid_block.attentions.0.proj_in.lora_magnitude_vector": UP[:3, 0]},
        "factors that do not fit each other": plain_file()
        | {"unet.mid_block.attentions.0.proj_in.lora_B.weight": UP.T},
        "is no layer of this model ": plain_file("transformer.proj_in"),
    }
    for said, made in wrong.items():
        save_file({key: value.contiguous() for key, value in made.items()}, tmp_path / "file.safetensors")
        import_lora(tmp_path / "file.safetensors", tmp_path / "in")
        with pytest.raises(ValueError, match=f"does not fit this model: its layer .*{said.strip()}"):
            load(SimpleNamespace(unet=models["v1"]["unet"]), tmp_path / "in")
    save_file(
        kohya("resnets_0_conv1", lokr_w1=torch.ones(2, 2), lokr_w2=torch.ones(8, 8, 3, 3)), tmp_path / "k.safetensors"
    )
    assert main(["import-lora", str(tmp_path / "k.safetensors"), str(tmp_path / "k")]) == 0
    assert main(["show", str(tmp_path / "k")]) == 0
    assert "LoKr of 1 layer\n1 layers, 580 parameters" in capsys.readouterr().out
    with pytest.raises(
        ValueError, match=r"holds LoKr, at first of unet\.mid_block\.resnets\.0\.conv1.*use --format kohya"
    ):
        export_format(tmp_path / "k", tmp_path / "no.safetensors", "diffusers")
    assert set(load_file(tmp_path / "k" / FileTuning.FILE)) == {
        f"unet.mid_block.resnets.0.conv1.lokr_w{n}" for n in (1, 2)
    }


def test_a_file_is_a_level_of_a_study(tiny_folder, tiny_base, subject_folders, tmp_path, monkeypatch):
    """It is not trained; it is drawn with, scored, recorded and scored again, and its content is in the run's id."""
    monkeypatch.chdir(tmp_path)
    width = len(tiny_base.unet.mid_block.attentions[0].proj_in.weight)
    made = plain_file(c_out=width, c_in=width)
    made = {key: 20 * value for key, value in made.items()}
    save_file(made, tmp_path / "theirs.safetensors")
    given = [*tiny_overrides(tiny_folder, subject_folders, tmp_path), "adapter=lora_file", "quiet=true"]
    record = run(composed(*given, "adapter.file=theirs.safetensors", "trainer.steps=7"))
    assert record.status == "finished" and record.reason is None and record.loss == []
    assert record.factors["method"] == "lora_file" and record.factors["steps"] == 0
    assert record.sizes["adapters"] == 1 and record.sizes["trainable_params"] == sum(v.numel() for v in made.values())
    folder = tmp_path / "single" / record.run_id
    assert record.metrics["noise_difference"] > 0.001, record.metrics
    again = OmegaConf.create({"run": str(folder), "quiet": True, "trust": True, "sampler": {"steps": 3}})
    monkeypatch.chdir("/")
    evaluate_again(again, ["sampler.steps=3"])
    assert len(Record.read(folder).evaluations) == 1
    monkeypatch.chdir(tmp_path)

    def id_of(*overrides):
        return run_id(validate(composed(*given, *overrides)))

    import_lora(tmp_path / "theirs.safetensors", tmp_path / "in")
    save_file({key: 2 * value for key, value in made.items()}, tmp_path / "other.safetensors")
    files = ("theirs.safetensors", f"{tmp_path}/theirs.safetensors", "in", "other.safetensors")
    ids = [id_of(f"adapter.file={file}") for file in files]
    assert ids[0] == ids[1] == record.run_id and len(set(ids)) == 3
    for overrides, said in {
        (): "adapter.file must be given",
        ("adapter.file=none.safetensors",): "no .safetensors file and no folder",
        ("adapter=lora", "+adapter.file=in"): "method lora takes no adapter.file",
        ("adapter=lora", "trainer.steps=0"): "trainer.steps must be a whole number of at least 1",
        ("adapter.file=in", "adapter.where=both"): "method lora_file takes no adapter.where",
    }.items():
        with pytest.raises(ValueError, match=said):
            id_of(*overrides)
    save_file(plain_file(c_in=5), tmp_path / "wrong.safetensors")
    failed = run(composed(*given, "adapter.file=wrong.safetensors"))
    assert failed.status == "failed" and "does not fit this model: its layer unet.mid_block" in failed.reason
