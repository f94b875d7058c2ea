"""Methods besides adapters: their arithmetic, gradients, files, and whole runs of them."""

import copy
import json
import pickle

import pytest
import tiny_pipelines
import torch
from diffusers import StableDiffusionPipeline
from omegaconf import OmegaConf
from safetensors.torch import load_file
from study_tools import composed, tiny_overrides

from sdpet.adapters import AdapterSpec
from sdpet.commands.evaluate_runs import evaluate_again
from sdpet.config import fleet_key, validate
from sdpet.methods import Design, EmbeddingTuning, PeftSpec, build, build_fleet, export_format, load
from sdpet.models import load_base
from sdpet.runs import Record, run
from sdpet.seeds import generator
from sdpet.tasks import DreamBoothTask
from sdpet.training import fit

RECIPE = Design("adapter", AdapterSpec.parse("attn2o-ffni", mid_dim=4))
LORA = Design("lora", rank=3, scale=0.5)
EMBEDDING = Design("embedding", token="sks")
PEFT = [
    Design("dora", peft=PeftSpec("dora", 2, 0.5)),
    Design("lokr", peft=PeftSpec("lokr", 3, 1.0, options={"decompose_factor": 4})),
    Design("loha", peft=PeftSpec("loha", 2, 1.0, ("to_q", "ff.net.0.proj"))),
    Design("oft", peft=PeftSpec("oft", 12)),  # does not divide 64
    Design("ia3", peft=PeftSpec("ia3")),
    Design("vera", peft=PeftSpec("vera", 5)),
]
DESIGNS = [RECIPE, Design("full"), LORA, EMBEDDING, *PEFT]
PROMPT, CLASS = "a photo of a sks star", "a photo of a star"


@pytest.fixture(scope="module")
def task(tiny_base, subject_folders):
    return DreamBoothTask(tiny_base, subject_folders["subject"], subject_folders["class"], PROMPT, CLASS)


@pytest.fixture(scope="module")
def fresh(tiny_folder):
    """A second copy of the base, which nothing is attached to."""
    return load_base("fresh", tiny_folder)


def predict(base, task):
    batch = task.batch(0, 0)
    with torch.no_grad():
        return base.predict(batch.noisy, batch.timesteps, base.encode_text(batch.prompts))


@pytest.mark.parametrize("design", DESIGNS, ids=lambda design: design.method)
def test_methods_share_one_interface(tiny_base, task, tmp_path, design):
    untuned = predict(tiny_base, task)
    weights = {key: value.clone() for key, value in tiny_base.unet.state_dict().items()}
    words = {key: value.clone() for key, value in tiny_base.text_encoder.state_dict().items()}
    modules = [id(module) for module in tiny_base.unet.modules()]
    handle = build(tiny_base, design, 0)
    if design.method != "embedding":
        assert torch.equal(predict(tiny_base, task), untuned)
    result = fit(tiny_base, handle, task, steps=4, lr=1e-2, seed=0)
    tuned = predict(tiny_base, task)
    assert not torch.equal(tuned, untuned) and not result.diverged
    assert handle.num_parameters() == sum(p.numel() for p in handle.parameters())
    handle.save(tmp_path)
    handle.disable()
    assert torch.equal(predict(tiny_base, task), untuned)
    handle.enable()
    assert torch.equal(predict(tiny_base, task), tuned) and all(p.requires_grad for p in handle.parameters())
    handle.detach()
    handle.detach()
    assert torch.equal(predict(tiny_base, task), untuned)
    for module, before in ((tiny_base.unet, weights), (tiny_base.text_encoder, words)):
        after = module.state_dict()
        assert list(after) == list(before) and all(torch.equal(after[key], before[key]) for key in before)
        assert not any(p.requires_grad or p.grad is not None for p in module.parameters())
    assert [id(module) for module in tiny_base.unet.modules()] == modules
    assert not hasattr(tiny_base.unet, "peft_config")
    state = torch.random.get_rng_state()
    loaded = load(tiny_base, tmp_path)
    assert torch.equal(predict(tiny_base, task), tuned)
    loaded.detach()
    assert torch.equal(predict(tiny_base, task), untuned)
    assert torch.equal(torch.random.get_rng_state(), state) and not list(tmp_path.glob("*.tmp"))


@pytest.mark.parametrize("design", DESIGNS, ids=lambda design: design.method)
def test_training_goes_on_from_a_state_as_if_it_had_not_stopped(tiny_base, task, design):
    from sdpet.training import Member, TrainConfig, fit_together

    def run(state=None, kept=None):
        handle = build(tiny_base, design, 0)
        keep = (lambda step, of: kept.update({step: of(0)})) if kept is not None else None
        try:
            fit_together(tiny_base, [Member(handle, 0, TrainConfig(4, 1e-2), state=state)], task, save=keep)
            return [p.detach().clone() for p in handle.parameters()]
        finally:
            handle.detach()

    kept: dict = {}
    whole = run(kept=kept)
    assert all(torch.equal(a, b) for a, b in zip(whole, run(kept[2]), strict=True))


def test_lora_in_a_fleet_is_trained_and_stored_as_alone(tiny_base, task, tmp_path):
    from sdpet.training import Member, SingleRun, TrainConfig, fit_together

    config, designs = TrainConfig(4, 1e-2), [LORA, RECIPE, LORA]
    untuned, weights = predict(tiny_base, task), []
    for number, design in enumerate(designs):
        handle = build(tiny_base, design, number)
        fit_together(tiny_base, [Member(handle, number, config)], task, fleet=SingleRun())
        handle.save(tmp_path / f"alone{number}")
        handle.detach()
    fleet = build_fleet(tiny_base, designs, [0, 1, 2])
    fit_together(tiny_base, [Member(m, i, config) for i, m in enumerate(fleet.members)], task, fleet=fleet)
    fleet.detach()
    for number, member in enumerate(fleet.members):
        member.save(tmp_path / f"fleet{number}")
        pair = []
        for kind in ("alone", "fleet"):
            handle = load(tiny_base, tmp_path / f"{kind}{number}")
            pair.append([p.detach().clone() for p in handle.parameters()])
            assert not torch.allclose(predict(tiny_base, task), untuned)
            handle.detach()
        weights.append(pair)
    torch.testing.assert_close(*zip(*weights, strict=True), rtol=1e-3, atol=1e-5)


def test_lora_is_its_formula(tiny_base, fresh):
    """W x + b + scale B A x with A, B read from the handle, against weights merged by hand."""
    handle = build(tiny_base, LORA, 0)
    with torch.no_grad():
        for parameter in handle.parameters():
            parameter.normal_(generator=torch.Generator().manual_seed(0), std=0.1)
    a_and_b = list(handle.parameters())
    paths = list(handle._paths.values())
    assert len(paths) == len(handle) == 4 * 2 * 7 and paths[0].endswith("attn1.to_q")  # 7 blocks of two attentions
    original = {}
    with torch.no_grad():
        for path, down, up in zip(paths, a_and_b[::2], a_and_b[1::2], strict=True):
            weight = fresh.unet.get_submodule(path).weight
            original[path] = weight.clone()
            assert down.shape == (3, weight.shape[1]) and up.shape == (weight.shape[0], 3)
            weight += 0.5 * up @ down
        noisy, text = torch.randn(2, *fresh.latent_shape), fresh.encode_text([PROMPT, ""])
        t = torch.tensor([3, 700])
        torch.testing.assert_close(tiny_base.predict(noisy, t, text), fresh.predict(noisy, t, text))
        for path, weight in original.items():
            fresh.unet.get_submodule(path).weight.copy_(weight)
    handle.detach()


def test_lora_is_refused_past_fused_projections(fresh):
    """It would train weights that no forward pass reads."""
    fresh.unet.fuse_qkv_projections()
    try:
        with pytest.raises(ValueError, match="unfuse_qkv_projections"):
            build(fresh, LORA, 0)
    finally:
        fresh.unet.unfuse_qkv_projections()
    handle = build(fresh, LORA, 0)
    fresh.unet.fuse_qkv_projections()
    noisy, text = torch.randn(1, *fresh.latent_shape), fresh.encode_text([PROMPT])
    try:
        with pytest.raises(ValueError, match=r"attn1\.q.*has no effect.*unfuse_qkv_projections"):
            fresh.predict(noisy, torch.tensor(500), text)
    finally:
        fresh.unet.unfuse_qkv_projections()
    fresh.predict(noisy, torch.tensor(500), text)
    handle.detach()


def test_lora_files_go_into_a_diffusers_pipeline(tiny_base, fresh, tmp_path):
    handle = build(tiny_base, LORA, 0)
    with torch.no_grad():
        for parameter in handle.parameters():
            parameter.normal_(generator=torch.Generator().manual_seed(0), std=0.1)
    handle.save(tmp_path)
    assert export_format(tmp_path, tmp_path / "web" / "lora.safetensors", "kohya") == len(handle)
    exported = load_file(tmp_path / "web" / "lora.safetensors")
    assert {value.item() for key, value in exported.items() if key.endswith(".alpha")} == {3 * 0.5}  # rank * scale
    parts = {name: getattr(fresh, name) for name in ("unet", "vae", "text_encoder", "tokenizer", "scheduler")}
    pipe = StableDiffusionPipeline(
        **parts, safety_checker=None, feature_extractor=None, image_encoder=None, requires_safety_checker=False
    )
    noisy, text = torch.randn(1, *fresh.latent_shape), fresh.encode_text([PROMPT])
    for files in ((tmp_path,), (tmp_path / "web", "lora.safetensors")):  # strength from the metadata, and from alpha
        pipe.load_lora_weights(files[0], **({"weight_name": files[1]} if files[1:] else {}))
        with torch.no_grad():
            ours = tiny_base.predict(noisy, torch.tensor(500), text)
            torch.testing.assert_close(fresh.predict(noisy, torch.tensor(500), text), ours)
            pipe.unload_lora_weights()
            assert not torch.allclose(fresh.predict(noisy, torch.tensor(500), text), ours)
    handle.detach()


def test_the_embedding_of_the_subjects_word_alone_is_learned(tiny_base, fresh, task, tmp_path):
    """Against a plain loop that trains the whole table of a copy and puts all rows but one back."""
    handle = build(tiny_base, EMBEDDING, 0)
    (row,) = handle.parameters()
    token = tiny_base.tokenizer("sks", add_special_tokens=False).input_ids
    table = fresh.text_encoder.get_input_embeddings().weight
    before = table.detach().clone()
    assert row.shape == (1, before.shape[1]) and torch.equal(row[0], before[token[0]])
    fit(tiny_base, handle, task, steps=3, lr=1e-2, seed=0)
    table.requires_grad_(True)
    optimizer = torch.optim.AdamW([table], lr=1e-2, weight_decay=0.01)
    for step in range(3):
        batch = task.batch(0, step)
        loss = task.loss(fresh.predict(batch.noisy, batch.timesteps, fresh.encode_text(batch.prompts)), batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            others = torch.arange(len(table)) != token[0]
            table[others] = before[others]
    torch.testing.assert_close(row[0], table[token[0]], rtol=1e-4, atol=1e-6)
    assert (row[0] - before[token[0]]).abs().max() > 1e-3
    torch.testing.assert_close(tiny_base.encode_text([PROMPT]), fresh.encode_text([PROMPT]))
    handle.detach()
    assert torch.equal(tiny_base.encode_text([CLASS]), fresh.encode_text([CLASS]))
    with torch.no_grad():
        table.copy_(before)
    table.requires_grad_(False)


@pytest.mark.parametrize("kind", ["sd3", "flux", "pixart"])
def test_the_embedding_of_a_word_is_learned_in_all_text_encoders(kind, tmp_path):
    tiny_pipelines.write_folder(tmp_path / "model", kind)
    base, other = (load_base("model", tmp_path / "model", image_size=64) for _ in range(2))
    token = "SKS" if kind == "pixart" else "sks"  # PixArt reads prompts in lower case
    prompt = f"a photo of {token} star"
    handle = EmbeddingTuning(base, token)
    encoders = [
        name for name in ("text_encoder", "text_encoder_2", "text_encoder_3") if getattr(base, name) is not None
    ]
    assert len(handle.parameters()) == len(encoders) == {"sd3": 3, "flux": 2, "pixart": 1}[kind]
    noisy = torch.randn(1, *base.latent_shape, generator=generator(0))
    base.predict(noisy, base.process.at(0.5, 1), base.encode_text([prompt])).square().sum().backward()
    for name, row in zip(encoders, handle.parameters(), strict=True):
        assert row.grad is not None and row.grad.abs().max() > 0, name
        with torch.no_grad():
            row += 0.5
            getattr(other, name).get_input_embeddings().weight[handle._look_ups[name].ids] += 0.5
    with torch.no_grad():
        learned, plain = other.encode_text([prompt]), other.encode_text(["a photo of star"])
        torch.testing.assert_close(base.encode_text([prompt]), learned)
        handle.save(tmp_path / "design")
        handle.detach()
        assert not torch.allclose(base.encode_text([prompt]), learned)
        torch.testing.assert_close(base.encode_text(["a photo of star"]), plain)
        EmbeddingTuning.load(base, tmp_path / "design")
        torch.testing.assert_close(base.encode_text([prompt]), learned)


def test_a_word_of_several_tokens_has_as_many_rows(tiny_base):
    handle = build(tiny_base, Design("embedding", token="zqx"), 0)
    assert len(handle) == 3 and handle.num_parameters() == 3 * tiny_base.text_encoder.config.hidden_size
    handle.detach()


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))])
def test_a_copied_text_encoder_has_learned_rows_of_its_own(tiny_base, duplicate):
    ids = tiny_base.tokenizer(["a sks star"], return_tensors="pt").input_ids

    def states(encoder):
        return encoder(ids)[0].detach()

    plain = states(tiny_base.text_encoder)
    handle = EmbeddingTuning(tiny_base, "sks")
    try:
        handle.parameters()[0].data.add_(1.0)
        tuned = states(tiny_base.text_encoder)
        encoder, alone = duplicate(tiny_base.text_encoder), duplicate(handle)
        alone.parameters()[0].data.zero_()
        alone.disable()
        alone.detach()
        assert torch.equal(states(tiny_base.text_encoder), tuned) and not torch.equal(tuned, plain)
        handle.parameters()[0].data.zero_()
        handle.detach()
    finally:
        handle.detach()
    assert torch.equal(states(encoder), tuned) and torch.equal(states(tiny_base.text_encoder), plain)


def test_method_errors(tiny_base, tmp_path):
    for wrong, words in (
        ({"method": "lora"}, "'lora' needs a rank"),
        ({"method": "lora", "rank": 2}, "'lora' needs a scale"),
        ({"method": "embedding", "token": "sks", "rank": 2}, "'embedding' takes no rank"),
        ({"method": "full", "spec": RECIPE.spec}, "'full' takes no adapter spec"),
        ({"method": "lora2"}, "adapter, full, lora, embedding"),
    ):
        with pytest.raises(ValueError, match=words):
            Design(**wrong)
    for first, second in ((RECIPE, LORA), (LORA, RECIPE), (LORA, Design("full"))):
        handle = build(tiny_base, first, 0)
        try:
            with pytest.raises(ValueError, match="already"):
                build(tiny_base, second, 0)
        finally:
            handle.detach()
    with pytest.raises(ValueError, match="train it alone"):
        build_fleet(tiny_base, [Design("full")], [0])
    handle = build(tiny_base, LORA, 0)
    handle.save(tmp_path)
    handle.detach()
    meta = json.loads((tmp_path / "lora.json").read_text())
    (tmp_path / "lora.json").write_text(json.dumps(meta | {"rank": 5}))
    with pytest.raises(ValueError, match="does not fit this UNet"):
        load(tiny_base, tmp_path)
    build(tiny_base, LORA, 0).detach()  # nothing was left on the UNet


@pytest.mark.parametrize("method", ["lora", "embedding"])
def test_a_run_of_each_method_is_recorded_and_scored_again(tiny_folder, subject_folders, tmp_path, method):
    overrides = [*tiny_overrides(tiny_folder, subject_folders, tmp_path), f"adapter={method}", "quiet=true"]
    record = run(composed(*overrides))
    folder = tmp_path / "single" / record.run_id
    assert record.status == "finished", record.reason
    assert record.factors["method"] == method and record.factors["placement"] is None
    assert record.sizes["trainable_params"] > 0 and record.sizes["bytes"] > 0
    if method == "lora":  # 24,000 parameters are asked for: no other rank comes nearer
        rank, each = record.factors["mid_dim"], record.sizes["trainable_params"] / record.factors["mid_dim"]
        assert abs(record.sizes["trainable_params"] - 24000) <= each / 2 and rank == int(rank) > 1
    evaluate_again(
        OmegaConf.create({"run": str(folder), "quiet": True, "trust": True, "sampler": {"steps": 3}}),
        ["sampler.steps=3"],
    )
    assert len(Record.read(folder).evaluations) == 1


RATES = {
    # trainer: lr and steps of each method there; the lab's are those of its gates
    "cpu": {"attn2o-ffni": (3e-3, 300), "full": (3e-4, 1000), "lora": (6e-3, 300), "embedding": (1, 300)},
    "gpu": {"attn2o-ffni": (1e-4, 2500), "full": (5e-6, 800), "lora": (1e-4, 500), "embedding": (2e-3, 3000)},
}


@pytest.mark.parametrize("trainer", RATES)
def test_each_method_comes_with_the_trainers_rate_and_steps_for_it(trainer):
    """What suits the lab would wreck Stable Diffusion; what is given by hand or by a study goes before both."""
    for adapter, expected in RATES[trainer].items():
        found = validate(composed(f"trainer={trainer}", f"adapter={adapter}"))
        assert (found.trainer.lr, found.trainer.steps) == expected and "methods" not in found.values["trainer"]
    given = validate(composed(f"trainer={trainer}", "adapter=lora", "trainer.lr=1", "+sweeps=smoke")).trainer
    assert (given.lr, given.steps) == (1, 4)


def test_lora_trains_with_adapters_and_other_methods_train_alone(tiny_folder, subject_folders, tmp_path):
    def key(*more):
        return fleet_key(validate(composed(*tiny_overrides(tiny_folder, subject_folders, tmp_path), *more)))

    assert key("seed=0") == key("seed=1") == key("adapter=lora")
    for method in ("embedding", "full", "dora"):
        assert key(f"adapter={method}") != key(f"adapter={method}", "seed=1")
    with pytest.raises(ValueError, match="needs task=dreambooth"):
        validate(composed("adapter=embedding", "task=finetune", "data=digits", f"output_root={tmp_path}"))
