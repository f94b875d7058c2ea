"""Forms, blocks, when and several placements: what they compute, and that they are saved, copied and counted."""

import copy
import pickle
import re
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from adapter_tools import run, small_unet, traces

from sdpet import AdapterSpec, attach, attached_adapters, detach_all, load_adapters, mid_dim_for
from sdpet.adapters import Fleet, activation_layer, count_parameters
from sdpet.adapters.attachment import build_unattached
from sdpet.adapters.forms import FormShape, compute, make_form
from sdpet.adapters.inputs import ModelInputs
from sdpet.choices import ACTIVATIONS, FORMS

OWN = {"form": "own_form.Gated", "options": {"gates": 2}}
DESIGNS = {
    **{form: {"form": form} for form in FORMS},
    "own": OWN,
    "early": {"when": (0.3, 1.0)},
    "down": {"blocks": "down", "form": "gated"},
    "several": {"form": "lowrank"},
}


def design(name, placement="attn2o-ffni", **more):
    placement = "attn2o-ffni+resi-resi" if name == "several" else placement
    width = {} if name == "scale_shift" else {"mid_dim": 3}
    return AdapterSpec.parse(placement, init="default", **width, **DESIGNS[name], **more)


def by_hand(name, p, x, grid):
    """The forms written out for tokens (B, N, c), from the names of their parameters."""
    if name == "lowrank":
        return x @ p["down.weight"].T @ p["up.weight"].T
    if name == "scale_shift":
        return x * p["weight"] + p["bias"]
    if name == "gated":
        gate, value = (x @ p[f"{key}.weight"].T + p[f"{key}.bias"] for key in ("gate", "value"))
        return (gate * torch.sigmoid(gate) * value) @ p["up.weight"].T + p["up.bias"]
    hidden = (x @ p["down.weight"].T + p["down.bias"]).reshape(len(x), *grid, -1)
    padded = F.pad(hidden, (0, 0, 1, 1, 1, 1))
    kernel = p["depthwise.weight"][:, 0]  # (width, 3, 3)
    rows, columns = grid
    hidden = p["depthwise.bias"] + sum(
        padded[:, i : i + rows, j : j + columns] * kernel[:, i, j] for i in range(3) for j in range(3)
    )
    hidden = hidden * torch.sigmoid(hidden)
    return hidden.flatten(1, 2) @ p["up.weight"].T + p["up.bias"]


@pytest.mark.parametrize("name", [form for form in FORMS if form != "bottleneck"])
@pytest.mark.parametrize("layout", ["tokens", "map"])
def test_a_form_computes_what_is_written_out(name, layout):
    c_out = 8 if name == "scale_shift" else 6
    activation = {"activation": "silu"} if "activation" in FORMS[name] else {}
    form = make_form(replace(design(name), **activation), FormShape(8, c_out, layout, 4)).double()
    x, grid = torch.randn(2, 15, 8, dtype=torch.float64), (3, 5)
    expected = by_hand(name, dict(form.named_parameters()), x, grid)
    if layout == "map":
        x, expected = (value.transpose(1, 2).unflatten(2, grid) for value in (x, expected))
    assert (compute(form, x, grid) - expected).abs().max() < 1e-12


@pytest.mark.parametrize("name", [*FORMS, "own"])
@pytest.mark.parametrize("placement", ["attn2o-ffni", "reso-reso"])
def test_a_design_that_starts_at_zero_is_the_base_model_and_learns(name, placement):
    unet = small_unet()
    base, before = run(unet), traces(unet)
    adapters = attach(unet, replace(design(name, placement), init="zero"), seed=1)
    assert torch.equal(run(unet), base)
    run(unet).square().sum().backward()
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in adapters.parameters())
    adapters.detach()
    unet.zero_grad()
    assert torch.equal(run(unet), base) and traces(unet) == before


@pytest.mark.parametrize("name", DESIGNS)
def test_a_design_is_saved_and_copied_and_leaves_the_unet_as_it_was(name, tmp_path):
    unet = small_unet()
    base, before = run(unet), traces(unet)
    adapters = attach(unet, design(name, scale=2.0), seed=1)
    tuned = run(unet)
    assert (tuned - base).abs().max() > 1e-4
    adapters.save(tmp_path)
    for twin in (copy.deepcopy(unet), pickle.loads(pickle.dumps(unet))):
        assert torch.equal(run(twin), tuned)
        (other,) = attached_adapters(twin)
        assert (other.spec, other.blocks) == (adapters.spec, adapters.blocks)
        detach_all(twin)
        assert torch.equal(run(twin), base) and traces(twin) == before
    alone = copy.deepcopy(adapters)
    assert not alone.attached and len(pickle.dumps(alone)) < 8 * adapters.num_parameters() + 100_000
    adapters.detach()
    assert torch.equal(run(unet), base) and traces(unet) == before
    loaded = load_adapters(unet, tmp_path, trust=name == "own")
    assert loaded.spec == adapters.spec and torch.equal(run(unet), tuned)
    assert count_parameters(unet, loaded.spec) == loaded.num_parameters()


@pytest.mark.parametrize("name", DESIGNS)
def test_copies_of_a_fleet_with_every_design(name):
    unet = small_unet()
    base, before = run(unet), traces(unet)
    with torch.random.fork_rng():
        fleet = Fleet(unet, [build_unattached(unet, design(name, scale=scale)) for scale in (1.0, 3.0)])
    tuned = run(unet)
    for row, member in enumerate(fleet.members):  # each row of the batch is the model of its member
        plain = small_unet()
        attach(plain, member.spec, seed=0).load_state_dict(member.state_dict())
        assert (run(plain)[row] - tuned[row]).abs().max() < 1e-5
    twin, members = copy.deepcopy(unet), pickle.loads(pickle.dumps(fleet))
    with torch.no_grad():
        fleet.vector(1).fill_(0.5)
    assert torch.equal(run(twin), tuned) and not torch.equal(run(unet), tuned)
    with torch.no_grad():
        members.vector(1).fill_(7.0)
    assert all((p == 7.0).all() for p in members.members[1].parameters())
    detach_all(twin)
    fleet.detach()
    assert torch.equal(run(twin), base) and traces(twin) == before
    assert torch.equal(run(unet), base) and traces(unet) == before


def test_outside_its_share_of_the_noise_schedule_the_model_is_the_base_model():
    """`run` has one row at timestep 10 and one at 500."""
    unet = small_unet()
    base = run(unet)
    always = attach(unet, design("bottleneck"), seed=1)
    tuned = run(unet)
    always.detach()
    for when, rows in {(0.0, 0.3): [0], (0.3, 1.0): [1], (0.5, 1.0): [1], (0.1, 0.5): [], (0.01, 0.6): [0, 1]}.items():
        adapters = attach(unet, replace(design("bottleneck"), when=when), seed=1)
        for row in (0, 1):
            for gradients in (True, False):
                with torch.set_grad_enabled(gradients):
                    assert torch.equal(run(unet)[row], (tuned if row in rows else base)[row]), (when, row)
        adapters.detach()
    last = attach(unet, replace(design("bottleneck"), when=(0.9, 1.0)), seed=1)
    x, context = torch.randn(1, 4, 8, 8), torch.randn(1, 5, 20)
    inside = unet(x, 1000, context).sample  # the end of the schedule belongs to it
    last.disable()
    assert not torch.equal(inside, unet(x, 1000, context).sample)


@pytest.mark.parametrize("blocks", ["down", "mid", "up", r"up_blocks\.1.*attentions\.0", "all"])
def test_blocks_carry_adapters_where_their_paths_match(blocks):
    unet = small_unet()
    spec = AdapterSpec.parse("attn2o-ffni", blocks=blocks)
    everywhere = attach(unet, replace(spec, blocks="all"), seed=0).blocks
    detach_all(unet)
    pattern = {"down": "^down_blocks", "mid": "^mid_block", "up": "^up_blocks", "all": ""}.get(blocks, blocks)
    found = attach(unet, spec, seed=0)
    assert found.blocks == tuple(path for path in everywhere if re.search(pattern, path)) != ()
    target = found.num_parameters()
    assert mid_dim_for(unet, spec, target) == spec.mid_dim


def test_blocks_that_match_nothing_are_an_error_that_names_the_paths():
    with pytest.raises(ValueError, match=r"blocks=nowhere; their paths are down_blocks\.0\.attentions\.0\.trans"):
        attach(small_unet(), AdapterSpec.parse("attn2o-ffni", blocks="nowhere"))


def test_several_placements_are_their_adapters_side_by_side():
    unet = small_unet()
    both = attach(unet, design("several"), seed=1)
    tuned, state = run(unet), both.state_dict()
    both.detach()
    total = 0
    for part in both.spec.parts:
        own = attach(unet, part, seed=0, alongside=True)
        mark = f".{part.placement}."
        own.load_state_dict({key.replace(mark, "."): value for key, value in state.items() if mark in key})
        total += own.num_parameters()
    assert torch.allclose(run(unet), tuned, atol=1e-6) and total == both.num_parameters()
    assert both.spec == AdapterSpec(placements=("resi-resi", "attn2o-ffni"), mid_dim=3, init="default", form="lowrank")
    assert AdapterSpec(placements=["attn2o-ffni"]) == AdapterSpec("attn2o", "ffni")


def test_the_width_is_found_by_counting():
    unet, spec = small_unet(), AdapterSpec.parse("attn2o-ffni", form="own_form.Square", init="default")
    sizes = {width: count_parameters(unet, replace(spec, mid_dim=width)) for width in range(1, 60)}
    for params in (1, sizes[1], 5000, 20_001, sizes[40] + 1):
        assert mid_dim_for(unet, spec, params) == min(sizes, key=lambda width: abs(sizes[width] - params))
    with pytest.raises(ValueError, match="scale_shift has no width"):
        mid_dim_for(unet, AdapterSpec.parse("attn2o-ffni", form="scale_shift"), 24_000)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_are_those_of_torch_and_act_on_every_number_by_itself(name):
    x = torch.linspace(-4, 4, 12)
    one, many = activation_layer(name), activation_layer(name)
    assert torch.allclose(many(x.reshape(3, 4)).flatten(), torch.stack([one(value[None])[0] for value in x]), atol=1e-6)


def test_every_activation_of_torch_that_needs_no_argument_is_there():
    kinds = vars(torch.nn.modules.activation)
    names = {n.lower() for n in torch.nn.modules.activation.__all__ if n in kinds}
    shaped = {"glu", "multiheadattention", "softmax", "softmax2d", "softmin", "logsoftmax", "threshold", "rrelu"}
    assert names - shaped == set(ACTIVATIONS) - {"sig", "ident"} | {"sigmoid"}  # RReLU draws random numbers


@pytest.mark.parametrize(("size", "tokens", "grid"), [((8, 8), 64, (8, 8)), ((9, 6), 15, (5, 3)), ((16, 4), 4, (4, 1))])
def test_the_grid_of_tokens_follows_the_latents(size, tokens, grid):
    from sdpet.adapters.edges import Attachment

    inputs, unet = ModelInputs(Attachment()), small_unet()
    inputs.watch(unet)
    inputs._remember(unet, (torch.zeros(1, 4, *size), 3, None), {})
    assert inputs.grid(tokens) == grid
    with pytest.raises(ValueError, match="no grid over latents"):
        inputs.grid(7)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"form": "wide"},
            "Unknown form 'wide'; choose one of bottleneck, lowrank, conv, scale_shift, gated, or",
        ),
        ({"form": "lowrank", "activation": "relu"}, "lowrank takes no activation"),
        ({"form": "scale_shift", "mid_dim": 3}, "scale_shift has no width"),
        ({"form": "own_form.Gone"}, r"own_form.Gone cannot be imported \(.*put its folder on PYTHONPATH"),
        ({"form": "own_form.torch"}, "must be a subclass of torch.nn.Module"),
        ({**OWN, "options": {"gats": 1}}, "no option 'gats'; its options are gates"),
        ({**OWN, "activation": "relu"}, "takes no activation"),
        ({"form": "own_form.Square"}, "no method start_at_zero, which init=zero needs"),
        ({"form": "own_form.Frozen", "init": "default"}, "train all of them; register what is fixed as a buffer"),
        ({"form": "conv", "options": {"kernel": 4}}, "kernel must be an odd whole number, not 4"),
        ({"form": "conv", "din": "attn2c", "dout": "attn2c"}, "conv needs the image's tokens"),
        ({"form": "scale_shift", "din": "resi", "dout": "reso"}, "as many channels must be written as are read"),
        ({"when": (0.5, 0.5)}, "0 <= first < second <= 1"),
        ({"blocks": "(("}, "no regular expression"),
        ({"options": {"width": 3}}, "width is no option of a form"),
        ({"placements": ("attn2o-ffni", "resi-reso")}, "Give din and dout, or placements, not both"),
    ],
)
def test_what_cannot_work_is_one_sentence(change, message):
    with pytest.raises(ValueError, match=message) as caught:
        attach(small_unet(), AdapterSpec(**{"din": "attn2o", "dout": "ffni", **change}))
    assert str(caught.value).count("\n") == 0


def test_a_received_folder_names_a_form_of_others_only_with_the_users_word(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    unet = small_unet()
    attach(unet, design("own"), seed=1).save(tmp_path / "saved")
    detach_all(unet)
    with pytest.raises(ValueError, match=r"adapters.json names own_form.Gated, .*trust=True"):
        load_adapters(unet, tmp_path / "saved")
    with pytest.raises(ValueError, match=r"names own_form\.Gated"):
        load_adapters(unet, tmp_path / "saved", trust=["own_form.Square"])
    for word in ({"trust": ["own_form.Gated"]}, {"spec": design("own")}):
        load_adapters(unet, tmp_path / "saved", **word).detach()
