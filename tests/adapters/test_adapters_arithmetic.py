"""What an attached adapter computes, in every block, against the plainly written forward pass, in float64."""

from dataclasses import replace

import plain_blocks
import pytest
import torch
from diffusers import UNet2DConditionModel

import sdpet.adapters.tables as tables
from sdpet import AdapterSpec, attach
from sdpet.adapters import PLACEMENTS, Tap, matching_blocks
from sdpet.adapters.positions import component

NEAR = {"rtol": 1e-10, "atol": 1e-10}


@pytest.fixture(scope="module")
def unet():
    """Widths and groups such that an adapter's 32 groups divide the channels of some ResBlocks only."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8, block_out_channels=(24, 64), layers_per_block=1, norm_num_groups=8,
        down_block_types=("CrossAttnDownBlock2D",) * 2, up_block_types=("CrossAttnUpBlock2D",) * 2,
        cross_attention_dim=20, attention_head_dim=2, transformer_layers_per_block=(1, 2),
    )  # fmt: skip
    return unet.double().requires_grad_(False)


def differences(unet, spec):
    """Largest difference from the plain forward pass in each block that carries an adapter."""
    adapters = attach(unet, spec, seed=1)
    try:
        found = {}
        for path, block in matching_blocks(unet, spec).items():
            state = adapters.by_block[path].state_dict()
            if component(spec.placement) == "resnet":
                x = torch.randn(2, block.in_channels, 6, 6, dtype=torch.float64)
                temb = torch.randn(2, block.time_emb_proj.in_features, dtype=torch.float64)
                c_in = block.in_channels if spec.din == "resi" else block.out_channels
                groups = 32 if c_in % 32 == 0 else 8
                expected = plain_blocks.resnet_block(block, x, temb, spec, state, groups)
                got = block(x, temb)
            else:
                x = torch.randn(2, 9, block.dim, dtype=torch.float64)
                context = torch.randn(2, 5, 20, dtype=torch.float64)
                expected = plain_blocks.transformer_block(block, x, context, spec, state)
                got = block(x, encoder_hidden_states=context)
            found[path] = (got - expected).abs().max().item()
        return found
    finally:
        adapters.detach()


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_every_placement_in_every_block(unet, placement):
    spec = AdapterSpec.parse(placement, mid_dim=3, scale=2.0, init="default", activation="silu")
    found = differences(unet, spec)
    assert len(found) == (8 if component(placement) == "resnet" else 11)  # 3 + 4 + 2 + 2 of blocks with 2 layers
    assert max(found.values()) < 1e-10, found


@pytest.mark.parametrize("scale", [0.5, 4.0])
@pytest.mark.parametrize("activation", ["relu", "sig", "silu", "ident"])
@pytest.mark.parametrize("placement", ["attn2o-ffni", "attn2c-attn2c", "resi-reso"])
def test_every_form(unet, placement, activation, scale):
    spec = AdapterSpec.parse(placement, mid_dim=5, activation=activation, scale=scale, init="default")
    assert max(differences(unet, spec).values()) < 1e-10


@pytest.mark.parametrize(
    ("placement", "tap"),
    [
        ("attn1i-attn1i", Tap("norm1", "in")),
        ("attn1i-attn2i", Tap("norm2", "in")),
        ("attn2o-ffni", Tap("norm3", "in")),
        ("resi-resi", Tap("norm1", "in")),
    ],
)
def test_the_comparison_sees_a_write_that_misses_the_skip(unet, placement, tap, monkeypatch):
    """Writing to what enters the norm, instead of to the residual stream, must not pass for the same thing."""
    dout = placement.split("-")[1]
    wrong = [
        replace(t, places=tuple(replace(p, writes=(tap,)) if p.name == dout else p for p in t.places))
        for t in tables.UNET_TABLES
    ]
    monkeypatch.setattr(tables, "TABLES", wrong)
    found = differences(unet, AdapterSpec.parse(placement, mid_dim=3, init="default"))
    assert min(found.values()) > 1e-3


def run(unet):
    generator = torch.Generator().manual_seed(3)
    dtype = next(unet.parameters()).dtype
    x = torch.randn(2, 4, 8, 8, generator=generator, dtype=dtype)
    context = torch.randn(2, 5, 20, generator=generator, dtype=dtype)
    return unet(x, torch.tensor([10, 500]), context).sample


def test_the_context_is_changed_for_one_block_only(unet):
    """A write to attn2c must not reach the context that other blocks, or other layers of the same block, are given."""
    seen = []
    hooks = [
        block.register_forward_pre_hook(lambda m, args, kw: seen.append(kw["encoder_hidden_states"]), with_kwargs=True)
        for block in matching_blocks(unet, AdapterSpec.parse("attn2c-attn2c")).values()
    ]
    base = run(unet)
    adapters = attach(unet, AdapterSpec.parse("attn2c-attn2c", init="default"), seed=0)
    assert not torch.equal(run(unet), base)
    assert len(seen) == 22 and all(torch.equal(context, seen[0]) for context in seen)
    adapters.detach()
    for hook in hooks:
        hook.remove()


def test_adapters_alongside_each_other_do_not_depend_on_the_order_of_attaching(unet):
    specs = [AdapterSpec.parse(p, mid_dim=3, init="default") for p in ("attn1o-attn2i", "attn2i-attn2i", "attn1i-ffni")]
    outputs = []
    for order in (specs, specs[::-1]):
        handles = [attach(unet, spec, seed=specs.index(spec), alongside=True) for spec in order]
        outputs.append(run(unet))
        for handle in handles:
            handle.detach()
    torch.testing.assert_close(*outputs, **NEAR)
