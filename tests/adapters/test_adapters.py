"""The handle: attaching leaves no trace, gradients, strength, precision, checkpointing, compilation, sizes."""

import gc
import weakref

import pytest
import torch
from adapter_tools import BOTH_BLOCKS, V1, run, small_unet, traces
from diffusers import UNet2DConditionModel

from sdpet import AdapterSpec, attach, mid_dim_for
from sdpet.adapters import PLACEMENTS, count_parameters, matching_blocks
from sdpet.adapters.hooks import all_hooks


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_zero_init_is_the_base_model_and_detach_restores_it_bit_for_bit(placement):
    unet = small_unet()
    before, weights, base = traces(unet), {k: v.clone() for k, v in unet.state_dict().items()}, run(unet)
    adapters = attach(unet, AdapterSpec.parse(placement, mid_dim=3))
    assert torch.equal(run(unet), base)
    with torch.no_grad():
        for parameter in adapters.parameters():
            parameter.normal_()
    assert (run(unet) - base).abs().max() > 1e-2
    assert unet.state_dict().keys() == weights.keys()
    adapters.detach()
    adapters.detach()  # a second time does nothing
    assert torch.equal(run(unet), base)
    assert traces(unet) == before and not list(all_hooks(unet))
    assert all(torch.equal(value, weights[key]) for key, value in unet.state_dict().items())


@pytest.mark.parametrize("placement", BOTH_BLOCKS)
def test_gradients_reach_every_adapter_parameter_and_nothing_else(placement):
    unet = small_unet().requires_grad_(False)
    adapters = attach(unet, AdapterSpec.parse(placement, mid_dim=3, init="default", activation="silu"), seed=0)
    run(unet).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in adapters.parameters())
    assert all(p.grad is None and not p.requires_grad for p in unet.parameters())
    adapters.detach()
    unet.requires_grad_(True)
    attach(unet, adapters.spec)
    assert all(p.requires_grad for p in unet.parameters())


def test_strength_and_switch():
    unet = small_unet()
    base = run(unet)
    adapters = attach(unet, AdapterSpec.parse("transo-transo", mid_dim=3, scale=2.0, init="default"), seed=0)
    full = run(unet)
    adapters.scale(0.5)
    half = run(unet)
    adapters.scale(0)
    assert torch.equal(run(unet), base)
    adapters.scale(1.0)
    assert torch.equal(run(unet), full)
    adapters.disable()
    assert torch.equal(run(unet), base)
    adapters.enable()
    assert torch.equal(run(unet), full)
    adapters.detach()
    attach(unet, AdapterSpec.parse("transo-transo", mid_dim=3, scale=1.0, init="default"), seed=0)
    assert torch.equal(run(unet), half) and not torch.equal(half, full)  # strength multiplies the design's scale
    with pytest.raises(ValueError, match="finite number"):
        adapters.scale(float("inf"))


def test_a_second_attach_is_refused_unless_asked_for():
    unet = small_unet()
    first = attach(unet, AdapterSpec.parse("attn2o-ffni"))
    with pytest.raises(ValueError, match=r"carries adapters already.*alongside=True"):
        attach(unet, AdapterSpec.parse("resi-resi"))
    base = run(unet)
    second = attach(unet, AdapterSpec.parse("attn2o-ffni", init="default"), alongside=True)
    assert not torch.equal(run(unet), base)
    second.detach()
    assert torch.equal(run(unet), base)
    first.detach()
    assert not list(all_hooks(unet))


def test_a_seed_gives_the_weights_and_leaves_the_global_generator_alone():
    unet = small_unet()
    spec = AdapterSpec.parse("resi-reso", mid_dim=2, init="default")
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    states = []
    for seed in (1, 1, 2):
        adapters = attach(unet, spec, seed=seed)
        states.append(torch.cat([p.detach().flatten() for p in adapters.parameters()]))
        adapters.detach()
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(states[0], states[1]) and not torch.equal(states[0], states[2])


@pytest.mark.parametrize("placement", BOTH_BLOCKS)
def test_gradient_checkpointing_gives_equal_gradients_and_keeps_nothing(placement):
    unet = small_unet().double().requires_grad_(False).train()
    adapters = attach(unet, AdapterSpec.parse(placement, mid_dim=3, init="default"), seed=0)
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            unet.enable_gradient_checkpointing()
        adapters.zero_grad()
        run(unet, torch.float64).square().mean().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in adapters.parameters()]))
        assert not any(hooks._seen for hooks in all_hooks(unet))
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-15)
    assert gradients[0].abs().max() > 0


def test_nothing_is_kept_after_a_pass_or_an_error():
    unet = small_unet()
    adapters = attach(unet, AdapterSpec.parse("attn1o-transo", init="default"))
    path, block = next(iter(matching_blocks(unet, adapters.spec).items()))
    kept = []
    hook = adapters.by_block[path].register_forward_pre_hook(lambda m, args: kept.append(weakref.ref(args[0])))
    run(unet)
    gc.collect()
    assert len(kept) == 1 and kept[0]() is None
    hook.remove()
    fail = block.ff.register_forward_pre_hook(lambda m, args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(unet)
    assert not any(hooks._seen for hooks in all_hooks(unet))
    fail.remove()
    run(unet)


@pytest.mark.parametrize("placement", BOTH_BLOCKS)
def test_precisions(placement):
    unet = small_unet()
    spec = AdapterSpec.parse(placement, mid_dim=3, init="default")
    adapters = attach(unet, spec, seed=0)
    exact = run(unet)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(run(unet).float(), exact, rtol=0.1, atol=0.1)
    unet.to(torch.bfloat16)
    out = run(unet, torch.bfloat16)  # float32 adapters in a bfloat16 UNet
    assert out.dtype == torch.bfloat16 and next(adapters.parameters()).dtype == torch.float32
    torch.testing.assert_close(out.float(), exact, rtol=0.1, atol=0.1)
    out.float().square().mean().backward()
    assert all(p.grad is not None for p in adapters.parameters())
    adapters.to(torch.bfloat16)
    torch.testing.assert_close(run(unet, torch.bfloat16).float(), exact, rtol=0.1, atol=0.1)


@pytest.mark.parametrize("placement", ["attn2o-ffni", pytest.param("resi-reso", marks=pytest.mark.slow)])
def test_compiled(placement):
    unet = small_unet(down_block_types=("CrossAttnDownBlock2D",), up_block_types=("CrossAttnUpBlock2D",),
                      block_out_channels=(32,))  # fmt: skip
    base = run(unet)
    adapters = attach(unet, AdapterSpec.parse(placement, mid_dim=3, init="default"), seed=0)
    plain = run(unet)
    compiled = torch.compile(unet, backend="eager", fullgraph=True)
    torch.testing.assert_close(run(compiled), plain)
    adapters.disable()
    torch.testing.assert_close(run(compiled), base)
    torch._dynamo.reset()


def test_several_transformer_blocks_in_one_attention():
    unet = small_unet(transformer_layers_per_block=(1, 3))
    adapters = attach(unet, AdapterSpec.parse("attn2o-ffni", mid_dim=2))
    assert len(adapters) == 3 + 3 * 4
    assert "down_blocks.1.attentions.0.transformer_blocks.2" in adapters.blocks
    assert all(name.startswith(adapters.blocks) for name, _ in adapters.named_parameters())


def test_sizes_on_stable_diffusion_v1():
    with torch.device("meta"):
        unet = UNet2DConditionModel(**V1)
    assert sum(p.numel() for p in unet.parameters()) == 859_520_964
    spec = AdapterSpec.parse("attn2o-ffni", mid_dim=60)
    adapters = attach(unet, spec)
    assert (len(adapters), adapters.num_parameters()) == (16, 1_511_040)
    adapters.detach()
    assert count_parameters(unet, AdapterSpec.parse("transo-transo", mid_dim=256)) == 6_406_336
    assert mid_dim_for(unet, spec, 1_511_040) == 60 and mid_dim_for(unet, spec, 1) == 1
    assert len(matching_blocks(unet, AdapterSpec.parse("resi-reso"))) == 22
    for placement in PLACEMENTS:  # nothing is nearer than what mid_dim_for gives
        spec = AdapterSpec.parse(placement)
        best = mid_dim_for(unet, spec, 1_500_000)
        errors = [
            abs(count_parameters(unet, AdapterSpec.parse(placement, mid_dim=m)) - 1_500_000)
            for m in (best, best + 1, max(1, best - 1))
        ]
        assert errors[0] == min(errors)


def test_a_unet_that_cannot_carry_the_design_is_refused():
    plain = small_unet(down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2, mid_block_type=None)
    with pytest.raises(
        ValueError, match="No block of this UNet2DConditionModel has the placement attn2o-ffni; choose one of resi-resi"
    ):
        attach(plain, AdapterSpec.parse("attn2o-ffni"))
    assert len(attach(plain, AdapterSpec.parse("resi-resi", mid_dim=1))) == 6
    with pytest.raises(ValueError, match=r"pass `pipe\.unet`"):
        attach(object(), AdapterSpec.parse("attn2o-ffni"))
    other = small_unet()
    block = other.mid_block.attentions[0].transformer_blocks[0]
    block.norm_type = "ada_norm"
    with pytest.raises(
        ValueError, match=r"mid_block.* its norm_type is 'ada_norm'; .* support 'layer_norm' or 'ada_norm_single'"
    ):
        attach(other, AdapterSpec.parse("attn2o-ffni"))
    block.norm_type, block.attn2 = "layer_norm", None
    assert len(attach(other, AdapterSpec.parse("attn2o-ffni"))) == 6  # the block without cross-attention is left out


def test_what_an_adapter_cannot_read_is_an_error_not_a_wrong_result():
    unet = small_unet()
    adapters = attach(unet, AdapterSpec.parse("ffno-transo"))
    block = unet.mid_block.attentions[0].transformer_blocks[0]
    block.set_chunk_feed_forward(2, dim=1)
    with pytest.raises(ValueError, match=r"output of ff in mid_block.*feed-forward chunking"):
        run(unet)
    adapters.detach()
    attach(unet, AdapterSpec.parse("attn2c-attn2c"))
    with pytest.raises(ValueError, match=r"input encoder_hidden_states of attn2 .* is NoneType"):
        block(torch.zeros(1, 4, block.dim))
