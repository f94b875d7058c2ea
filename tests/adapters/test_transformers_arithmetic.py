"""What an attached adapter computes in every block of every family, against the datapath written out, in float64."""

import copy
import functools
from dataclasses import replace

import plain_transformers as plain
import pytest
import torch
from tiny_transformers import FAMILIES, tiny_transformer

import sdpet.adapters.tables as tables
from sdpet import AdapterSpec, attach
from sdpet.adapters import Tap, placements_of
from sdpet.adapters.routes import find_routes

WIDTH = {"qwen": 32, "wan": 24}  # of the others 16
tiny = functools.cache(tiny_transformer)


def normal(*shape):
    return torch.randn(2, *shape, dtype=torch.float64)


def outputs(family, block, clean, at):
    """What a block with its hooks gives, and what the datapath written out gives, as tuples without None."""
    width = WIDTH.get(family, 16)
    image, time = normal(12, width), normal(6 * width)
    if family == "pixart":
        context = normal(5, 16)
        got = block(image, encoder_hidden_states=context, timestep=time)
        expected = plain.cross(clean, at, image, context, time)
    elif family == "sana":
        context = normal(5, 16)
        got = block(image, encoder_hidden_states=context, timestep=time, height=3, width=4)
        expected = plain.cross(clean, at, image, context, time, (3, 4))
    elif family == "wan":
        context, time = normal(5, width), time.unflatten(1, (6, width))
        rotary = (torch.ones(1, 12, 1, 12), torch.zeros(1, 12, 1, 12))
        got, expected = block(image, context, time, rotary), plain.wan(clean, at, image, context, time, rotary)
    else:
        text, temb = normal(5, width), normal(width)
        if family == "qwen":
            got = block(image, text, torch.ones(2, 5, dtype=torch.bool), temb)
            expected = plain.qwen(clean, at, image, text, temb)
        else:
            got = block(image, text, temb)
            written = plain.single if type(block).__name__ == "FluxSingleTransformerBlock" else plain.joint
            expected = written(clean, at, image, text, temb)
    results = (got, expected)
    return [[x for x in (r if isinstance(r, tuple) else (r,)) if x is not None] for r in results]


def differences(family, *specs):
    """Largest relative difference in each block that carries adapters of these designs."""
    model = tiny(family)
    clean = copy.deepcopy(model)
    handles = [attach(model, spec, seed=seed, alongside=True) for seed, spec in enumerate(specs)]
    torch.manual_seed(2)
    try:
        found = {}
        for path, route in find_routes(model, specs[0].din, specs[0].dout).items():
            if not all(path in handle.by_block for handle in handles):
                continue
            at = plain.At(*((spec, handle.by_block[path]) for spec, handle in zip(specs, handles, strict=True)))
            pairs = zip(*outputs(family, route.block, clean.get_submodule(path), at), strict=True)
            found[path] = max(((got - expected).abs().max() / expected.abs().max()).item() for got, expected in pairs)
        return found
    finally:
        for handle in handles:
            handle.detach()


def placements(family):
    return [p for p in placements_of(tiny(family)) if "." not in p]


CASES = [(family, placement) for family in FAMILIES for placement in placements(family)]


@pytest.mark.parametrize(("family", "placement"), CASES)
def test_every_placement_in_every_block(family, placement):
    spec = AdapterSpec.parse(placement, mid_dim=3, scale=2.0, init="default", activation="silu")
    found = differences(family, spec)
    blocks = 3 if family.startswith("sd3") else 2
    if placement.startswith("dualo"):
        blocks = 2
    if placement.startswith("text_") and placement != "text_attn1i-text_attn1i" and family.startswith("sd3"):
        blocks = 2  # the last block has no text stream after attention
    assert len(found) == blocks
    assert max(found.values()) < (1e-6 if family == "wan" else 1e-9), found  # Wan computes norms in float32


@pytest.mark.parametrize(
    ("family", "together"),
    [
        ("sd35", "ffni-ffni transo-transo ffno-transo dualo-ffni attn1o-transo ffni-transo"),
        ("flux", "text_ffni-text_ffni text_transo-text_transo text_ffno-text_transo ffni-transo"),
        ("flux", "joint_attn1i-joint_attn1i joint_attn1i-joint_transo joint_transo-joint_transo"),
        ("pixart", "attn2i-attn2i attn2o-ffni attn2i-ffni ffni-ffni attn2c-attn2c ffni-transo"),
        ("wan", "attn1o-attn2i attn2o-ffni attn2i-ffni ffni-ffni"),
    ],
)
def test_adapters_alongside_each_other_see_what_was_written_earlier_on_the_datapath(family, together):
    specs = [AdapterSpec.parse(p, mid_dim=3, init="default", activation="silu") for p in together.split()]
    for order in (specs, specs[::-1]):
        assert max(differences(family, *order).values()) < (1e-6 if family == "wan" else 1e-9)


def test_the_placements_of_each_family():
    assert [len(placements(family)) for family in FAMILIES] == [18, 20, 22, 17, 17, 17, 18]


@pytest.mark.parametrize(
    ("family", "placement", "taps"),
    [
        ("sd3", "attn1o-ffni", (Tap("attn", "out", index=0),)),  # before the gate
        ("sd3", "attn1o-ffni", (Tap("norm2", "in"),)),  # misses the skip
        ("sd35", "ffni-ffni", (Tap("", "out", index=1),)),  # misses the branch
        ("flux", "text_ffni-text_ffni", (Tap("norm2_context", "in"),)),
        ("flux", "joint_attn1o-joint_transo", (Tap("attn", "out"),)),  # before the gate
        ("pixart", "attn1i-attn2i", (Tap("attn1", "out"),)),  # right in a UNet, gated here
        ("pixart", "attn1o-attn2i", (Tap("attn2", "in", "hidden_states"),)),  # misses the skip
        ("sana", "attn2i-ffni", (Tap("norm2", "in"),)),  # misses the skip
        ("wan", "attn2i-attn2i", (Tap("norm2", "in"),)),
        ("wan", "attn1i-ffni", (Tap("norm3", "in"),)),
        ("qwen", "ffni-ffni", (Tap("img_norm2", "in"),)),
    ],
)  # fmt: skip
def test_the_comparison_sees_every_table_that_is_broken(family, placement, taps, monkeypatch):
    dout = placement.split("-")[1]
    wrong = [
        replace(t, places=tuple(replace(p, writes=taps, joined=False) if p.name == dout else p for p in t.places))
        for t in tables.TABLES
        if any(type(block).__name__ == t.block for block in tiny(family).modules())
    ]
    monkeypatch.setattr(tables, "TABLES", wrong)
    found = differences(family, AdapterSpec.parse(placement, mid_dim=3, init="default"))
    assert min(found.values()) > 1e-3
