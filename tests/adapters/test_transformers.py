"""Adapters in diffusers' transformers: attaching, files, copies, fleets, checkpointing, compiling, pipelines."""

import copy

import pytest
import torch
from adapter_tools import traces
from diffusers import (
    AutoencoderKL,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    PixArtSigmaPipeline,
    StableDiffusion3Pipeline,
)
from tiny_transformers import FAMILIES, run, tiny_transformer
from torch import nn

import sdpet.adapters.tables as tables
from sdpet import AdapterSpec, attach, load_adapters
from sdpet.adapters import (
    BlockTable,
    Fleet,
    Place,
    Tap,
    add_table,
    attached_adapters,
    count_parameters,
    detach_all,
    placements_of,
)
from sdpet.adapters.attachment import build_unattached

NEAR = {"rtol": 1e-9, "atol": 1e-9}
SOME = {
    "sd3": "attn1o-ffni", "sd35": "dualo-ffni", "flux": "joint_attn1o-joint_transo", "pixart": "attn1o-attn2i",
    "sana": "ffno-transo", "wan": "attn2o-ffni", "qwen": "text_ffni-text_ffni",
}  # fmt: skip


def placements(model):
    return [placement for placement in placements_of(model) if "." not in placement]


def gradients_of(adapters):
    """All gradients as one vector. None is zero: in Qwen-Image's last block the text goes nowhere."""
    return torch.cat([torch.zeros(p.numel()) if p.grad is None else p.grad.flatten() for p in adapters.parameters()])


@pytest.mark.parametrize("family", FAMILIES)
def test_every_placement_is_switched_saved_loaded_copied_and_detached_bit_for_bit(family, tmp_path):
    model = tiny_transformer(family)
    before, base = traces(model), run(family, model)
    for number, placement in enumerate(placements(model)):
        spec = AdapterSpec.parse(placement, mid_dim=2, init="default")
        adapters = attach(model, spec, seed=number)
        assert adapters.num_parameters() == count_parameters(model, spec)
        changed = run(family, model)
        assert not torch.allclose(changed, base, rtol=1e-6), placement
        adapters.scale(0.0)
        assert torch.equal(run(family, model), base)
        adapters.scale(1.0)
        adapters.disable()
        assert torch.equal(run(family, model), base)
        adapters.enable()
        adapters.save(tmp_path / placement)
        twin = copy.deepcopy(model)
        adapters.detach()
        assert torch.equal(run(family, model), base) and traces(model) == before
        assert torch.equal(run(family, twin), changed)
        (of_twin,) = attached_adapters(twin)
        of_twin.detach()
        assert torch.equal(run(family, twin), base)
        loaded = load_adapters(model, tmp_path / placement)
        assert torch.equal(run(family, model), changed)
        loaded.detach()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_fleet_computes_each_placement_as_if_it_were_alone(family):
    """Outputs and gradients, of all placements together and of two with another width."""
    model = tiny_transformer(family)
    specs = [AdapterSpec.parse(p, mid_dim=2, init="default", scale=0.5) for p in placements(model)]
    specs += [AdapterSpec.parse(p, mid_dim=3, init="default") for p in placements(model)[:2]]
    members = [build_unattached(model, spec) for spec in specs]
    expected = []
    for spec, member in zip(specs, members, strict=True):
        alone = attach(model, spec)
        alone.load_state_dict(member.state_dict())
        output = run(family, model)
        output.square().mean().backward()
        expected.append((output.detach(), gradients_of(alone)))
        alone.detach()
    fleet = Fleet(model, members)
    shares = run(family, model, copies=len(specs)).chunk(len(specs))
    torch.stack([share.square().mean() for share in shares]).sum().backward()
    tolerance = {"rtol": 1e-5, "atol": 1e-5} if family == "wan" else NEAR  # Wan computes norms in float32
    for share, index in zip(shares, fleet.active, strict=True):
        output, gradients = expected[index]
        torch.testing.assert_close(share, output, **tolerance, msg=lambda m, i=index: f"{specs[i].placement}: {m}")
        torch.testing.assert_close(gradients_of(members[index]), gradients, **tolerance)
    fleet.detach()
    detach_all(model)


@pytest.mark.parametrize("family", FAMILIES)
def test_gradient_checkpointing_gives_equal_gradients(family):
    model = tiny_transformer(family).train()
    adapters = attach(model, AdapterSpec.parse(SOME[family], mid_dim=3, init="default"), seed=0)
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            model.enable_gradient_checkpointing()
        adapters.zero_grad()
        run(family, model).square().mean().backward()
        gradients.append(gradients_of(adapters))
    assert gradients[0].abs().max() > 0
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-15)


slow = pytest.mark.slow


@pytest.mark.parametrize("family", [pytest.param("sd35", marks=slow), "flux", pytest.param("pixart", marks=slow)])
def test_compiled(family):
    model = tiny_transformer(family, num_layers=1, **({"num_single_layers": 1} if family == "flux" else {}))
    base = run(family, model)
    adapters = attach(model, AdapterSpec.parse(SOME[family], mid_dim=3, init="default"), seed=0)
    changed = run(family, model)
    compiled = torch.compile(model, backend="eager")
    torch.testing.assert_close(run(family, compiled), changed, **NEAR)
    adapters.disable()
    torch.testing.assert_close(run(family, compiled), base, **NEAR)
    torch._dynamo.reset()


def test_half_precision_models_and_float32_adapters():
    for family in ("sd3", "pixart", "wan"):  # each writes at several taps, Wan in two precisions
        model = tiny_transformer(family).bfloat16()
        adapters = attach(model, AdapterSpec.parse("attn1i-attn1i" if family == "sd3" else "attn2i-attn2i"), seed=0)
        output = run(family, model, dtype=torch.bfloat16)
        assert output.dtype == torch.bfloat16 and next(adapters.parameters()).dtype == torch.float32
        output.float().square().mean().backward()
        assert all(p.grad is not None for p in adapters.parameters())


def test_what_a_transformer_cannot_carry_is_one_sentence():
    model = tiny_transformer("sd3")
    with pytest.raises(
        ValueError, match=r"No block of this SD3Transformer2DModel has the placement attn2o-ffni; choose"
    ):
        attach(model, AdapterSpec.parse("attn2o-ffni"))
    for pair in ("attn1o-text_ffni", "text_attn1i-ffni", "joint_attn1i-transo"):
        with pytest.raises(ValueError, match="different tokens"):
            AdapterSpec.parse(pair)
    with pytest.raises(ValueError, match=r"It has Strange.*Block.*Supported are .*JointTransformerBlock.*add_table"):
        attach(Strange(), AdapterSpec.parse("attn1i-transo"))
    model.transformer_blocks[0].ff_context = None  # a block without a needed submodule is left out
    assert attach(model, AdapterSpec.parse("text_attn1i-text_transo")).blocks == ("transformer_blocks.1",)


class StrangeBlock(nn.Module):
    """A block of someone's own: x1 = x + 2 * mix(x); x2 = x1 + 3 * grow(x1). It gives (x2, mix(x))."""

    def __init__(self, dim=6):
        super().__init__()
        self.dim, self.norm = dim, nn.Identity()
        self.mix, self.grow = nn.Linear(dim, dim), nn.Linear(dim, dim)

    def forward(self, memory, x):
        mixed = self.mix(x)
        x = x + 2 * mixed
        return x + 3 * self.grow(self.norm(x)), mixed


class Strange(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList([StrangeBlock().double() for _ in range(2)])

    def forward(self, x):
        for layer in self.layers:
            x, _ = layer(None, x=x)
        return x


@pytest.fixture
def known():
    """The tables there are before a test are those after it."""
    before = list(tables.TABLES)
    yield
    tables.TABLES[:] = before


@pytest.mark.usefixtures("known")
def test_a_table_for_a_block_of_ones_own(tmp_path):
    x, out = (Tap("", "in", "x"),), Tap("", "out", index=0)
    table = BlockTable(
        "StrangeBlock",
        package=__name__.partition(".")[0],
        places=(
            Place("attn1i", x, x, "dim"),
            Place("mixed", (Tap("mix", "out", own=True),), (), "dim", meaning="what mix gives"),
            Place("ffni", (Tap("norm", "in"),), (Tap("norm", "in"), out), "dim"),
            Place("transo", (out,), (out,), "dim"),
        ),
    )
    with pytest.raises(ValueError, match="Unknown position 'mixed'"):
        AdapterSpec.parse("mixed-ffni")
    add_table(table)
    add_table(table)
    model = Strange()
    assert placements_of(model) == table.placements and "mixed-ffni" in table.placements
    value = torch.randn(2, 3, 6, dtype=torch.float64)
    adapters = attach(model, AdapterSpec.parse("mixed-ffni", mid_dim=2, init="default"), seed=0)
    expected = value
    for layer, adapter in zip(model.layers, adapters.by_block.values(), strict=True):
        mixed = expected @ layer.mix.weight.T + layer.mix.bias
        x1 = expected + 2 * mixed + adapter(mixed)
        expected = x1 + 3 * (x1 @ layer.grow.weight.T + layer.grow.bias)
    torch.testing.assert_close(model(value), expected, **NEAR)
    adapters.save(tmp_path)
    adapters.detach()
    load_adapters(model, tmp_path)
    torch.testing.assert_close(model(value), expected, **NEAR)
    with pytest.raises(ValueError, match="has a table already"):
        add_table(BlockTable("StrangeBlock", (), package=table.package))
    with pytest.raises(ValueError, match="attn1i of Other is in stream 'sound'"):
        add_table(BlockTable("Other", (Place("attn1i", x, x, "dim", stream="sound"),)))


def pipelines():
    """Pipelines of tiny random parts. Text comes as embeddings, so they need no text encoder."""
    vae = {"block_out_channels": (8,), "norm_num_groups": 4, "latent_channels": 4, "sample_size": 16}
    no_text = {"text_encoder": None, "tokenizer": None}
    flow = FlowMatchEulerDiscreteScheduler()
    model = tiny_transformer("sd3").float()
    yield StableDiffusion3Pipeline(
        transformer=model, scheduler=flow, vae=AutoencoderKL(**vae, shift_factor=0.1), text_encoder_2=None,
        tokenizer_2=None, text_encoder_3=None, tokenizer_3=None, **no_text,
    ), {"pooled_prompt_embeds": torch.ones(1, 12), "negative_pooled_prompt_embeds": torch.zeros(1, 12)}  # fmt: skip
    model = tiny_transformer("flux", in_channels=16).float()
    yield FluxPipeline(
        transformer=model, scheduler=flow, vae=AutoencoderKL(**vae, shift_factor=0.1), text_encoder_2=None,
        tokenizer_2=None, **no_text,
    ), {"pooled_prompt_embeds": torch.ones(1, 12)}  # fmt: skip
    model = tiny_transformer("pixart").float()
    yield PixArtSigmaPipeline(
        transformer=model, scheduler=DPMSolverMultistepScheduler(), vae=AutoencoderKL(**vae), **no_text
    ), {
        "prompt_attention_mask": torch.ones(1, 5), "negative_prompt_attention_mask": torch.ones(1, 5),
        "negative_prompt": None, "use_resolution_binning": False,
    }  # fmt: skip


def test_diffusers_own_pipelines_draw_with_adapters_attached():
    for pipe, own in pipelines():
        pipe.set_progress_bar_config(disable=True)
        generator = torch.Generator().manual_seed(1)
        text = {"prompt_embeds": torch.randn(1, 5, 20, generator=generator)}
        if not isinstance(pipe, FluxPipeline):
            text["negative_prompt_embeds"] = torch.zeros(1, 5, 20)

        def draw(pipe=pipe, own=own, text=text):
            return pipe(**text, **own, num_inference_steps=2, height=8, width=8, output_type="np",
                        generator=torch.Generator().manual_seed(5)).images  # fmt: skip

        base = draw()
        for placement in placements(pipe.transformer):
            adapters = attach(pipe.transformer, AdapterSpec.parse(placement, init="default", mid_dim=2), seed=0)
            assert (draw() != base).any(), placement
            adapters.detach()
        assert (draw() == base).all()


@pytest.mark.parametrize("family", ["sd3", "flux"])
def test_when_is_a_share_of_the_noise_however_a_model_counts_time(family):
    """Rows at timesteps 10 and 500 of 1,000: only the first is in the cleanest tenth. Flux is called with the share."""
    model = tiny_transformer(family)
    before = run(family, model)
    adapters = attach(model, AdapterSpec.parse("attn1o-ffni", mid_dim=3, init="default", when=(0.0, 0.1)), seed=0)
    changed = (run(family, model) - before).flatten(1).abs().amax(1) > 0
    adapters.detach()
    assert changed.tolist() == [True, False]
