"""LoRA as low-rank adapters at projections against peft's LoRA: the same weights, forward passes and training."""

import copy

import pytest
import torch
from adapter_tools import small_unet
from peft import LoraConfig, inject_adapter_in_model
from tiny_transformers import run as run_transformer
from tiny_transformers import tiny_transformer

from sdpet.adapters import AdapterSpec, Fleet, attach, placements_of
from sdpet.adapters.attachment import build_unattached
from sdpet.methods.lora import LoraTuning, lora_design

TARGETS = {  # diffusers' name of a layer inside attention or a block: the position
    "sd3": {"attn.to_q": "attn1.q", "attn.add_k_proj": "text_attn1.k", "ff.net.0.proj": "ff.in",
            "ff_context.net.2": "text_ff.out", "attn.to_out.0": "attn1.out", "attn.to_add_out": "text_attn1.out"},
    "sd35": {"attn2.to_v": "dual.v", "attn.to_k": "attn1.k"},
    "flux": {"attn.to_v": "attn1.v", "attn.add_v_proj": "text_attn1.v", "proj_mlp": "joint_ff.in",
             "proj_out": "joint_ff.out"},
    "pixart": {"attn1.to_q": "attn1.q", "attn2.to_k": "attn2.k", "attn2.to_out.0": "attn2.out", "ff.net.2": "ff.out"},
    "sana": {"attn1.to_v": "attn1.v", "attn2.to_q": "attn2.q"},
}  # fmt: skip


def unet_out(unet, copies=1):
    generator = torch.Generator().manual_seed(3)
    x, context = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((2, 4, 8, 8), (2, 5, 20)))
    time = torch.tensor([10, 500] * copies)
    return unet(torch.cat([x] * copies), time, torch.cat([context] * copies)).sample


class Base:
    """The part of a base model that LoRA needs."""

    def __init__(self, unet):
        self.unet = unet


def with_peft(unet, handle, scale=0.5):
    """A copy of the UNet with peft's LoRA of the same weights; and its parameters in the order of the handle's."""
    twin = copy.deepcopy(unet)
    paths = list(handle._paths.values())
    inject_adapter_in_model(LoraConfig(r=3, lora_alpha=3 * scale, target_modules=paths), twin)
    layers = [twin.get_submodule(path) for path in paths]
    theirs = [part.weight for layer in layers for part in (layer.lora_A["default"], layer.lora_B["default"])]
    with torch.no_grad():
        for mine, its in zip(handle.parameters(), theirs, strict=True):
            its.data = mine.detach().double().clone()
    return twin, theirs


@pytest.fixture
def unet():
    return small_unet().double().requires_grad_(False)


def drawn(unet, seed):
    handle = LoraTuning(Base(unet), 3, 0.5, attached=False)
    with torch.no_grad():
        for parameter in handle.parameters():
            parameter.normal_(generator=torch.Generator().manual_seed(seed), std=0.1)
    return handle


def trained(forward, groups):
    optimizers = [torch.optim.AdamW(group, 1e-2) for group in groups]
    for _ in range(20):
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=False)
        torch.stack([share.square().mean() for share in forward()]).sum().backward()
        for optimizer in optimizers:
            optimizer.step()


def test_lora_by_edges_is_pefts_lora_alone_and_in_a_fleet_with_adapters(unet):
    members = [drawn(unet, 0), build_unattached(unet, AdapterSpec.parse("attn2o-ffni", mid_dim=2)), drawn(unet, 1)]
    expected = []
    for handle in (members[0], members[2]):
        twin, theirs = with_peft(unet, handle)
        start = unet_out(twin).detach()
        trained(lambda twin=twin: [unet_out(twin)], [theirs])
        expected.append((start, [p.detach() for p in theirs], unet_out(twin).detach()))

    alone = LoraTuning(Base(unet), 3, 0.5)
    alone.load_state_dict(members[0].state_dict())
    start, weights, end = expected[0]
    torch.testing.assert_close(unet_out(unet), start, rtol=1e-9, atol=1e-9)
    trained(lambda: [unet_out(unet)], [list(alone.parameters())])
    torch.testing.assert_close(list(p.detach() for p in alone.parameters()), weights, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(unet_out(unet), end, rtol=1e-5, atol=1e-5)
    alone.detach()

    fleet = Fleet(unet, members)
    shares = dict(zip(fleet.active, unet_out(unet, 3).detach().chunk(3), strict=True))
    for index, (start, _, _) in zip((0, 2), expected, strict=True):
        torch.testing.assert_close(shares[index], start, rtol=1e-9, atol=1e-9)
    trained(lambda: unet_out(unet, 3).chunk(3), [[fleet.vector(index)] for index in range(3)])
    for index, (_, weights, _) in zip((0, 2), expected, strict=True):
        torch.testing.assert_close([p.detach() for p in members[index].parameters()], weights, rtol=1e-5, atol=1e-5)
    fleet.detach()


def test_initial_weights_are_those_that_peft_draws(unet):
    for dtype in (torch.float32, torch.bfloat16):
        model = copy.deepcopy(unet).to(dtype)
        torch.manual_seed(7)
        handle = LoraTuning(Base(model), 3, 0.5, attached=False)
        torch.manual_seed(7)
        config = LoraConfig(r=3, lora_alpha=1.5, target_modules=list(handle._paths.values()))
        inject_adapter_in_model(config, model)
        for (path, mine), side in zip(
            ((path, form) for path, form in zip(handle._paths.values(), handle.by_block.values(), strict=True)),
            ["lora_A"] * len(handle), strict=True,
        ):  # fmt: skip
            theirs = getattr(model.get_submodule(path), side)["default"].weight
            assert torch.equal(mine.down.weight, theirs.float()) and not mine.up.weight.any()


@pytest.mark.parametrize("family", TARGETS)
def test_low_rank_adapters_at_projections_of_transformers_are_pefts_lora(family):
    model = tiny_transformer(family)
    for layer, name in TARGETS[family].items():
        spec = AdapterSpec.parse(f"{name}-{name}", form="lowrank", mid_dim=2, scale=2.0, init="default")
        adapters = attach(model, spec, seed=0)
        twin = copy.deepcopy(model)
        output = run_transformer(family, model)
        (of_twin,) = __import__("sdpet").attached_adapters(twin)
        of_twin.detach()
        paths = [f"{path}.{layer}" for path in adapters.blocks]
        inject_adapter_in_model(LoraConfig(r=2, lora_alpha=4, target_modules=paths), twin)
        for path, form in zip(paths, adapters.by_block.values(), strict=True):
            module = twin.get_submodule(path)
            module.lora_A["default"].weight.data = form.down.weight.data.clone()
            module.lora_B["default"].weight.data = form.up.weight.data.clone()
        torch.testing.assert_close(run_transformer(family, twin), output, rtol=1e-9, atol=1e-9)
        adapters.detach()


def test_lora_of_a_whole_transformer_and_fused_projections():
    model = tiny_transformer("flux")
    base = run_transformer("flux", model)
    spec = lora_design(model, 2)
    assert "joint_attn1.v-joint_attn1.v" in spec.placements and "joint_ff.out-joint_ff.out" not in spec.placements
    assert len(spec.placements) == 4 + 4 + 3
    handle = LoraTuning(Base(model), 2)
    assert torch.equal(run_transformer("flux", model), base) and len(handle) == 2 * 8 + 2 * 3
    model.fuse_qkv_projections()
    with pytest.raises(ValueError, match="has no effect"):
        run_transformer("flux", model)
    handle.detach()
    with pytest.raises(ValueError, match="fused projections"):
        LoraTuning(Base(model), 2)
    attach(model, AdapterSpec.parse("attn1o-ffni")).detach()  # what is not at a projection goes with fused ones
    assert any(placement.startswith("attn1.q") for placement in placements_of(model))


def test_attention_outside_of_blocks_is_not_left_out_in_silence():
    unet = small_unet(
        down_block_types=("AttnDownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D")
    )
    with pytest.raises(ValueError, match=r"down_blocks\.0\.attentions\.0 is attention outside"):
        LoraTuning(Base(unet), 2)
