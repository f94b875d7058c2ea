"""Designs in the text encoder: arithmetic, gradients, files, other tools, and whole runs."""

from __future__ import annotations

import copy
import json
import math

import pytest
import tiny_models
import torch
from diffusers import StableDiffusionPipeline
from omegaconf import OmegaConf
from peft import LoraConfig, inject_adapter_in_model
from safetensors.torch import load_file
from study_tools import composed, tiny_overrides
from torch.nn import functional

from sdpet import AdapterSpec, attach, load_adapters
from sdpet.adapters import Parts, model_at, placements_of
from sdpet.adapters.tables.text import CLIP
from sdpet.commands.evaluate_runs import evaluate_again
from sdpet.config import InadmissibleCell, fleet_key, validate
from sdpet.methods import Design, PeftSpec, build, build_fleet, export_format, import_lora, load
from sdpet.methods.lora import LoraTuning
from sdpet.models import BaseModel, load_base
from sdpet.runs import Record, run
from sdpet.tasks import DreamBoothTask
from sdpet.training import fit

PLACEMENTS = [p for p in CLIP.placements if "." not in p]
BOTH = AdapterSpec.parse("attn1o-ffni", mid_dim=3)
PROMPT, CLASS = "a photo of a sks star", "a photo of a star"
IDS = torch.tensor([[49406, 320, 1125, 49407, 49407], [49406, 539, 320, 2368, 49407]])


@pytest.fixture(scope="module")
def task(tiny_base, subject_folders):
    return DreamBoothTask(tiny_base, subject_folders["subject"], subject_folders["class"], PROMPT, CLASS)


def randomise(handle, seed=0):
    source = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in handle.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=source) * 0.1)


def by_hand(encoder, ids, placement="", deltas=None, lora=None):
    """The states after each layer of CLIP's text encoder, written down from its formulas (Radford et al. 2021)."""
    din, _, dout = placement.partition("-")
    model = getattr(encoder, "text_model", encoder)
    x = model.embeddings.token_embedding.weight[ids] + model.embeddings.position_embedding.weight[: ids.shape[1]]
    states = []
    for i, layer in enumerate(model.encoder.layers):

        def linear(module, path, value, i=i):
            out = functional.linear(value, module.weight, module.bias)
            return out if lora is None else out + lora(i, path, value)

        def changed(place, value, seen, i=i):
            return value + deltas[i](seen[din]) if dout == place else value

        seen = {"attn1i": x}
        x = changed("attn1i", x, seen)
        n = functional.layer_norm(x, x.shape[-1:], layer.layer_norm1.weight, layer.layer_norm1.bias)
        heads, attention = layer.self_attn.num_heads, layer.self_attn
        q, k, v = (
            linear(getattr(attention, f"{c}_proj"), f"self_attn.{c}_proj", n).unflatten(2, (heads, -1)) for c in "qkv"
        )
        scores = torch.einsum("bihd,bjhd->bhij", q, k) / math.sqrt(q.shape[-1])
        past = torch.ones(scores.shape[-2:]).tril().bool()
        weights = scores.masked_fill(~past, -torch.inf).softmax(-1)
        mixed = torch.einsum("bhij,bjhd->bihd", weights, v).flatten(2)
        seen["attn1o"] = linear(attention.out_proj, "self_attn.out_proj", mixed)
        seen["ffni"] = x + seen["attn1o"]
        x = changed("ffni", seen["ffni"], seen)
        n = functional.layer_norm(x, x.shape[-1:], layer.layer_norm2.weight, layer.layer_norm2.bias)
        inner = linear(layer.mlp.fc1, "mlp.fc1", n)
        seen["ffno"] = linear(layer.mlp.fc2, "mlp.fc2", inner * torch.sigmoid(1.702 * inner))
        seen["transo"] = x + seen["ffno"]
        x = changed("transo", seen["transo"], seen)
        states.append(x)
    return states


@pytest.fixture(scope="module")
def encoder():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return tiny_models.text_encoder(16).double().eval().requires_grad_(False)


def compare(encoder, handle, expected):
    """States of every layer, and gradients of all weights, attached and by hand."""
    weight = torch.randn(expected()[-1].shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    out = encoder(IDS, output_hidden_states=True)
    for got, wanted in zip(out.hidden_states[1:], expected(), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-12)
    parameters = list(handle.parameters())
    got = torch.autograd.grad((out.hidden_states[-1] * weight).sum(), parameters)
    wanted = torch.autograd.grad((expected()[-1] * weight).sum(), parameters)
    assert all(grad.abs().max() > 0 for grad in wanted)
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_each_placement_is_its_formula_and_detaching_leaves_no_trace(encoder, placement):
    plain, weights = encoder(IDS).last_hidden_state, copy.deepcopy(encoder.state_dict())
    spec = AdapterSpec.parse(placement, mid_dim=3, scale=0.7, activation="silu")
    handle = attach(Parts(text_encoder=encoder), spec, seed=0)
    assert torch.equal(encoder(IDS).last_hidden_state, plain) and handle.where == "text_encoder"
    randomise(handle)
    forms = list(handle.by_block.values())
    deltas = [lambda value, form=form: 0.7 * form(value) for form in forms]
    compare(encoder, handle, lambda: by_hand(encoder, IDS, placement, deltas))
    assert not torch.allclose(encoder(IDS).last_hidden_state, plain, atol=1e-3)
    handle.scale(0.0)
    torch.testing.assert_close(encoder(IDS).last_hidden_state, plain)
    handle.detach()
    assert torch.equal(encoder(IDS).last_hidden_state, plain) and handle.blocks[0].startswith(
        "text_encoder.text_model."
    )
    assert all(torch.equal(value, weights[key]) for key, value in encoder.state_dict().items())


@pytest.mark.parametrize("layers", [("attention",), ("attention", "feed_forward")])
def test_lora_is_its_formula(encoder, layers):
    base = type("Model", (), {"unet": torch.nn.Linear(1, 1), "text_encoder": encoder})()
    handle = LoraTuning(base, 2, 0.5, layers=layers, where="text_encoder")
    randomise(handle)
    named = {key.removesuffix(".weight"): value for key, value in handle._named().items()}
    assert len(handle) == 3 * (4 if layers == ("attention",) else 6)

    def lora(i, path, value):
        key = f"text_encoder.text_model.encoder.layers.{i}.{path}"
        if f"{key}.lora_A" not in named:
            return 0
        return 0.5 * value @ named[f"{key}.lora_A"].T @ named[f"{key}.lora_B"].T

    compare(encoder, handle, lambda: by_hand(encoder, IDS, lora=lora))
    handle.detach()


def test_a_training_of_both_is_that_of_peft_in_a_plain_loop(tiny_base, tiny_folder, task):
    """Captions are encoded in each step, those of the class images, too; the UNet's part begins as alone."""
    fresh = load_base("fresh", tiny_folder)
    handle = build(tiny_base, Design("lora", rank=2, scale=0.5, where="both"), 3)
    named, alone = handle._named(), build(fresh, Design("lora", rank=2, scale=0.5), 3)
    for key, value in alone._named().items():
        assert torch.equal(value, named[key])
    alone.detach()
    for part, network in (("unet", fresh.unet), ("text_encoder", fresh.text_encoder)):
        targets = ["to_q", "to_k", "to_v", "to_out.0"] if part == "unet" else ["q_proj", "k_proj", "v_proj", "out_proj"]
        inject_adapter_in_model(LoraConfig(r=2, lora_alpha=1, target_modules=targets), network)
    twins = {}
    for part, network in (("unet", fresh.unet), ("text_encoder.text_model", fresh.text_encoder)):
        for path, parameter in network.named_parameters():
            if "lora_" in path:
                twins[f"{part}.{path.replace('.default', '')}"] = parameter
    assert twins.keys() == named.keys()
    for key, parameter in twins.items():
        parameter.data.copy_(named[key])
    optimizer = torch.optim.AdamW(twins.values(), lr=1e-2, weight_decay=0.01)
    fit(tiny_base, handle, task, steps=3, lr=1e-2, seed=0)
    for step in range(3):
        batch = task.batch(0, step)
        loss = task.loss(fresh.predict(batch.noisy, batch.timesteps, fresh.encode_text(batch.prompts)), batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for key, parameter in twins.items():
        torch.testing.assert_close(named[key], parameter, rtol=1e-3, atol=2e-5)
    moved = [named[key].abs().max() for key in named if "text_encoder" in key and "lora_B" in key]
    assert min(moved) > 1e-3
    # what a step encodes is what was cached, where the adapters add nothing; and "" changes with them
    batch = task.batch(0, 0)
    assert not torch.allclose(tiny_base.encode_text(batch.prompts), batch.text, atol=1e-3)
    plain = tiny_base.encode_text([""])
    handle.scale(0.0)
    torch.testing.assert_close(tiny_base.encode_text(batch.prompts), batch.text)
    assert not torch.allclose(tiny_base.encode_text([""]), plain, atol=1e-4)
    handle.detach()


def picture(pipe):
    source = torch.Generator().manual_seed(0)
    return pipe(PROMPT, num_inference_steps=2, guidance_scale=3.0, generator=source, output_type="np").images


DESIGNS = [
    Design("adapter", BOTH, where="both"),
    Design("adapter", AdapterSpec(placements=("attn2o-ffni", "ffni-transo"), mid_dim=2), where="both"),
    Design("lora", rank=2, scale=0.5, where="text_encoder"),
    Design("dora", peft=PeftSpec("dora", 2, 0.5), where="both"),
    Design("ia3", peft=PeftSpec("ia3"), where="text_encoder"),
]


@pytest.mark.parametrize("design", DESIGNS, ids=lambda design: f"{design.method}-{design.where}")
def test_a_pipeline_draws_the_same_picture_with_what_was_saved(tiny_folder, tmp_path, design):
    options = {"safety_checker": None, "requires_safety_checker": False, "feature_extractor": None}
    first, second = (StableDiffusionPipeline.from_pretrained(tiny_folder, **options) for _ in range(2))
    for pipe in (first, second):
        pipe.set_progress_bar_config(disable=True)
    plain = picture(first)
    base = load_base("fresh", tiny_folder)
    base.unet, base.text_encoder = first.unet, first.text_encoder
    handle = build(base, design, 0)
    randomise(handle)
    drawn = picture(first)
    assert abs(drawn - plain).max() > 1e-2
    handle.save(tmp_path)
    handle.disable()
    assert abs(picture(first) - plain).max() == 0
    handle.detach()
    assert abs(picture(first) - plain).max() == 0
    if design.method == "adapter":
        again = load_adapters(second, tmp_path)
        assert json.loads((tmp_path / "adapters.json").read_text())["where"] == design.where == again.where
        with pytest.raises(ValueError, match="need the whole pipeline"):
            load_adapters(first.unet, tmp_path)
    else:
        base.unet, base.text_encoder = second.unet, second.text_encoder
        again = load(base, tmp_path)
    assert abs(picture(second) - drawn).max() == 0
    again.disable()
    assert abs(picture(second) - plain).max() == 0
    again.detach()
    with torch.no_grad():  # another text encoder is another base model
        for parameter in second.text_encoder.parameters():
            parameter.add_(0.05)
    with pytest.raises(ValueError, match="another base model"):
        load(base, tmp_path, strict=True) if design.method != "adapter" else load_adapters(
            second, tmp_path, strict=True
        )


def test_two_adapters_in_one_text_encoder_add_up(tiny_base, tmp_path):
    plain = tiny_base.encode_text([PROMPT])
    for number in range(2):
        handle = build(tiny_base, Design("adapter", AdapterSpec.parse("transo-transo", mid_dim=2, blocks=r"1$"),
                                         where="text_encoder"), 0)  # fmt: skip
        randomise(handle, number)
        handle.save(tmp_path / str(number))
        handle.detach()
    handles = [load(tiny_base, tmp_path / str(number), alongside=True) for number in range(2)]
    states = tiny_base.encode_text([PROMPT])
    handles[0].scale(0.0)
    assert not torch.allclose(tiny_base.encode_text([PROMPT]), states)
    with pytest.raises(ValueError, match="carries adapters already"):
        build(tiny_base, Design("lora", rank=1, scale=1.0), 0)
    for handle in handles:
        handle.detach()
    assert torch.equal(tiny_base.encode_text([PROMPT]), plain)


TEXT_FF = {"unet": ["attention"], "text_encoder": ["attention", "feed_forward"], "text_encoder_2": ["attention"]}


@pytest.mark.parametrize(("kind", "layers"), [("v1", ("attention",)), ("sdxl", TEXT_FF)])
def test_diffusers_and_import_read_what_is_exported(tmp_path, kind, layers):
    made = tiny_models.parts(kind)
    base = BaseModel(**{key: value for key, value in made.items()}, name="tiny", weight_hash="")
    handle = LoraTuning(base, 2, 0.5, layers=layers, where="both")
    randomise(handle)
    handle.save(tmp_path / "run")
    wanted = states(made)
    handle.detach()
    plain = states(made)
    assert all(not torch.allclose(a, b, atol=1e-3) for a, b in zip(plain, wanted, strict=True))
    assert export_format(tmp_path / "run", tmp_path / "kohya.safetensors", "kohya") == len(handle)
    first = "lora_te1_" if kind == "sdxl" else "lora_te_"
    assert f"{first}text_model_encoder_layers_0_self_attn_q_proj.alpha" in load_file(tmp_path / "kohya.safetensors")
    pipe = tiny_models.pipeline(kind, made)
    for folder, name in (("run", LoraTuning.FILE), (".", "kohya.safetensors")):
        pipe.load_lora_weights(tmp_path / folder, weight_name=name)
        for got, expected in zip(states(made), wanted, strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
        pipe.unload_lora_weights()
        assert import_lora(tmp_path / folder / name, tmp_path / "back") == (len(handle), 2)
        again = load(base, tmp_path / "back")
        for got, expected in zip(states(made), wanted, strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
        again.detach()


@torch.no_grad()
def states(made):
    """What each text encoder gives, and the UNet for fixed states."""
    found = [made[name](IDS).last_hidden_state for name in ("text_encoder", "text_encoder_2") if name in made]
    source, unet = torch.Generator().manual_seed(0), made["unet"]
    more = {}
    if "text_encoder_2" in made:
        more["added_cond_kwargs"] = {"text_embeds": torch.zeros(1, 24), "time_ids": torch.zeros(1, 6)}
    text = torch.randn(1, 5, unet.config.cross_attention_dim, generator=source)
    return [*found, unet(torch.randn(1, 4, 8, 8, generator=source), 500, text, **more).sample]


@pytest.mark.parametrize("design", [("adapter=lora",), ("adapter=attn1o-ffni",)], ids=["lora", "adapter"])
def test_a_run_of_both_is_trained_recorded_and_scored_again(tiny_folder, subject_folders, tmp_path, design):
    overrides = [*tiny_overrides(tiny_folder, subject_folders, tmp_path), *design, "adapter.where=both", "quiet=true"]
    record = run(composed(*overrides))
    folder = tmp_path / "single" / record.run_id
    assert record.status == "finished", record.reason
    assert record.settings["adapter.where"] == "both"
    each = record.sizes["trainable_params"] / record.factors["mid_dim"]
    assert abs(record.sizes["trainable_params"] - 24000) <= each  # of both parts together
    evaluate_again(OmegaConf.create({"run": str(folder), "quiet": True, "trust": True, "sampler": {"steps": 3}}),
                   ["sampler.steps=3"])  # fmt: skip
    again = Record.read(folder)
    assert len(again.evaluations) == 1
    assert again.evaluations[0]["anchors"]["clip_i"]["floor"] != again.evaluations[0]["metrics"]["clip_i"]


REFUSED = [
    (("adapter.where=both",), "the text encoder of lab has the placement attn2o-ffni; choose one of attn1i-attn1i"),
    (("adapter=full", "adapter.where=both"), "method full takes no adapter.where; .* adapter, lora, dora"),
    (("adapter=embedding", "adapter.where=text_encoder"), "method embedding takes no adapter.where"),
    (("adapter=attn1o-ffni", "adapter.where=both", "adapter.when=[0,0.5]"), "adapter.when says something"),
    (("adapter=attn1o-ffni", "adapter.where=both", "adapter.blocks=down"), "adapter.blocks says something"),
    (("adapter=attn1o-ffni", "adapter.where=both", "form=conv"), "form conv needs tokens on a grid"),
]  # fmt: skip


def test_what_does_not_go_is_one_sentence_and_such_runs_train_alone(tiny_base, tiny_folder, subject_folders, tmp_path):
    for overrides, says in REFUSED:
        with pytest.raises(InadmissibleCell, match=says):
            validate(composed(*overrides))
    here = tiny_overrides(tiny_folder, subject_folders, tmp_path)
    for overrides, says in (
        (("adapter.blocks=down",), r"matches no block of the text_encoder .* text_model.encoder.layers.0 to"),
        (("unet.offload=true",), "needs the text encoder in each step; set unet.offload=false"),
        (("adapter.where=text",), "adapter.where must be one of unet, text_encoder, both"),
    ):
        with pytest.raises(ValueError, match=says):
            validate(composed(*here, "adapter=attn1o-ffni", "adapter.where=text_encoder", *overrides))

    def key(*more):
        return fleet_key(validate(composed(*here, "adapter=attn1o-ffni", *more)))

    assert key("adapter.where=both") != key("adapter.where=both", "seed=1") and key("seed=1") == key()
    with pytest.raises(ValueError, match=r"text states.*train it alone"):
        build_fleet(tiny_base, [Design("adapter", BOTH, where="both")], [0])
    with pytest.raises(
        ValueError, match=r"no place in the text_encoder; placements there are attn1i-attn1i, attn1i-ffni"
    ):
        attach(model_at(tiny_base, "both"), AdapterSpec.parse("attn2o-ffni"))
    with pytest.raises(ValueError, match="neither the noise nor the grid"):
        attach(model_at(tiny_base, "both"), AdapterSpec.parse("attn1o-ffni", when=(0, 0.5)))
    with pytest.raises(ValueError, match="no CLIP text encoder"):
        model_at(type("T5", (), {"unet": tiny_base.unet, "text_encoder": torch.nn.Linear(1, 1)})(), "both")
    with pytest.raises(ValueError, match="must be unet with method 'full'"):
        Design("full", where="both")
    assert placements_of(tiny_base.text_encoder) == CLIP.placements
    build(tiny_base, Design("lora", rank=1, scale=1.0), 0).detach()  # nothing was left
