"""Copies of adapted UNets and of handles, pickled ones, and UNets that were compiled before the adapters came."""

from __future__ import annotations

import copy
import gc
import io
import pickle

import pytest
import torch
from adapter_tools import BOTH_BLOCKS, run, small_unet, traces

from sdpet import Adapters, AdapterSpec, attach, attached_adapters, detach_all
from sdpet.adapters import Fleet
from sdpet.adapters.attachment import build_unattached


def through_torch(value):
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda value: pickle.loads(pickle.dumps(value)),
    "torch.save": through_torch,
}
every_copy = pytest.mark.parametrize("duplicate", COPIES.values(), ids=COPIES)


def adapted(placement, seed=0, unet=None, **form):
    unet = small_unet() if unet is None else unet
    return unet, attach(unet, AdapterSpec.parse(placement, mid_dim=3, init="default", **form), seed=seed)


def change(adapters):
    with torch.no_grad():
        for parameter in adapters.parameters():
            parameter.add_(0.1)


@every_copy
@pytest.mark.parametrize("placement", BOTH_BLOCKS)
def test_a_copied_unet_has_adapters_of_its_own(placement, duplicate):
    plain = small_unet()
    base, untouched = run(plain), traces(plain)
    unet, adapters = adapted(placement)
    adapters.scale(0.5)
    tuned = run(unet)
    twin = duplicate(unet)
    assert torch.equal(run(twin), tuned) and not torch.equal(tuned, base)
    with pytest.raises(ValueError, match=f"carries adapters already .in {adapters.blocks[0]}"):
        attach(twin, adapters.spec)

    (own,) = attached_adapters(twin)
    assert (own.spec, own.blocks, own.strength, own.attached) == (adapters.spec, adapters.blocks, 0.5, True)
    own.scale(1.0)
    change(own)
    assert torch.equal(run(unet), tuned) and not torch.equal(run(twin), tuned)
    adapters.detach()
    assert torch.equal(run(unet), base) and not torch.equal(run(twin), base)
    second = duplicate(twin)
    own.detach()
    assert torch.equal(run(twin), base) and traces(twin) == untouched and not attached_adapters(twin)
    assert not torch.equal(run(second), base)
    detach_all(second)
    assert torch.equal(run(second), base) and traces(second) == untouched


@every_copy
def test_a_copied_handle_is_detached(duplicate):
    unet, adapters = adapted("attn2o-ffni")
    adapters.scale(2.0)
    tuned = run(unet)
    twin = duplicate(adapters)
    assert isinstance(twin, Adapters) and not twin.attached and twin.strength == 2.0 and twin.spec == adapters.spec
    assert {key: value.tolist() for key, value in twin.state_dict().items()} == {
        key: value.tolist() for key, value in adapters.state_dict().items()
    }
    change(twin)
    twin.disable()
    twin.detach()
    assert adapters.attached and torch.equal(run(unet), tuned)


@every_copy
@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["UNet first", "handle first"])
def test_a_handle_copied_together_with_its_unet_is_attached_to_the_copy(order, duplicate):
    both = adapted("attn2c-attn2c")
    tuned = run(both[0])
    copied = duplicate([both[i] for i in order])
    unet, adapters = (copied[order.index(i)] for i in (0, 1))
    assert adapters.attached and torch.equal(run(unet), tuned)
    change(adapters)
    assert not torch.equal(run(unet), tuned)
    adapters.detach()
    assert not attached_adapters(unet) and both[1].attached and torch.equal(run(both[0]), tuned)


@every_copy
def test_several_handles_on_one_unet_stay_apart_in_the_copy(duplicate):
    unet, first = adapted("transo-transo")
    once = run(unet)
    second = attach(unet, AdapterSpec.parse("attn2o-transo", mid_dim=3, init="default"), seed=1, alongside=True)
    twice = run(unet)
    twin = duplicate(unet)
    one, other = attached_adapters(twin)
    assert (one.spec, other.spec) == (first.spec, second.spec)
    third = attach(twin, AdapterSpec.parse("attn1o-transo", mid_dim=3, init="default"), seed=2, alongside=True)
    third.detach()
    assert torch.equal(run(twin), twice)
    other.disable()
    assert torch.equal(run(twin), once) and torch.equal(run(unet), twice)
    other.enable()
    other.detach()
    assert torch.equal(run(twin), once) and [handle.spec for handle in attached_adapters(twin)] == [first.spec]


def test_a_handle_outlives_its_unet():
    unet, adapters = adapted("attn2o-ffni")
    del unet
    gc.collect()
    assert not adapters.attached
    adapters.detach()


@every_copy
@pytest.mark.parametrize("placements", [("attn2o-ffni", "attn1i-ffni"), ("resi-reso", "resi-reso")])
def test_copies_of_a_fleet(placements, duplicate):
    unet = small_unet()
    base, untouched = run(unet), traces(unet)
    specs = [AdapterSpec.parse(p, mid_dim=3, init="default", scale=2.0) for p in placements]
    with torch.random.fork_rng():
        fleet = Fleet(unet, [build_unattached(unet, spec) for spec in specs])
    tuned = run(unet)
    twin, members = duplicate(unet), duplicate(fleet)
    weights = sum(member.num_parameters() for member in fleet.members)
    assert len(pickle.dumps(fleet)) < 8 * weights + 200_000  # 4 bytes a weight, and not all of them for each view
    assert torch.equal(run(twin), tuned) and not torch.equal(tuned, base)
    with pytest.raises(ValueError, match="carries adapters already"):
        attach(twin, specs[0])
    for own, member in zip(members.members, fleet.members, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(own.parameters(), member.parameters(), strict=True))
    with torch.no_grad():
        members.vector(0).fill_(7.0)  # still the same memory as the copy's parameters, and no other's
    assert all((p == 7.0).all() for p in members.members[0].parameters())
    members.remove(0)
    assert members.active == [1] and torch.equal(run(unet), tuned)
    members.detach()
    change(fleet.members[0])
    assert torch.equal(run(twin), tuned) and not torch.equal(run(unet), tuned)
    detach_all(twin)
    assert torch.equal(run(twin), base) and traces(twin) == untouched
    assert not torch.equal(run(unet), base)
    fleet.detach()
    assert torch.equal(run(unet), base)


def test_a_fleet_that_was_detached_stays_out_of_the_unet_when_a_member_leaves():
    unet = small_unet()
    spec = AdapterSpec.parse("attn2o-ffni", mid_dim=3, init="default")
    fleet = Fleet(unet, [build_unattached(unet, spec), build_unattached(unet, spec)])
    fleet.detach()
    before = traces(unet)
    fleet.remove(1)
    assert traces(unet) == before and fleet.active == [0]


HOW = {
    "torch.compile(unet)": lambda unet: torch.compile(unet, backend="eager"),
    "unet.compile()": lambda unet: unet.compile(backend="eager") or unet,
    "a function that calls it": lambda unet: torch.compile(lambda *args: unet(*args), backend="eager"),
    "blocks by themselves": lambda unet: [b.compile(backend="eager") for b in unet.down_blocks] and unet,
}


@pytest.mark.parametrize("compiled", HOW.values(), ids=HOW)
def test_adapters_take_effect_on_a_unet_that_was_compiled_and_has_run(compiled):
    config = {
        "down_block_types": ("CrossAttnDownBlock2D",), "up_block_types": ("CrossAttnUpBlock2D",),
        "block_out_channels": (32,),
    }  # fmt: skip
    plain, unet = small_unet(**config), small_unet(**config)
    call = compiled(unet)
    base = run(call)
    torch.testing.assert_close(base, run(plain))
    target = call if isinstance(call, torch.nn.Module) else unet
    try:
        for placement in ("attn2o-ffni", "resi-reso"):
            _, reference = adapted(placement, unet=plain)
            _, adapters = adapted(placement, unet=target)
            torch.testing.assert_close(run(call), run(plain))
            assert (run(call) - base).abs().max() > 1e-3
            adapters.detach()
            reference.detach()
            torch.testing.assert_close(run(call), base)
        runs = [AdapterSpec.parse("attn2o-ffni", mid_dim=3, init="default")] * 2
        with torch.random.fork_rng():
            fleet = Fleet(unet, [build_unattached(unet, spec) for spec in runs])
        assert (run(call) - base).abs().max() > 1e-3
        fleet.detach()
        torch.testing.assert_close(run(call), base)
    finally:
        torch._dynamo.reset()


def test_attaching_leaves_compiled_code_alone_where_there_is_none(monkeypatch):
    torch._dynamo.reset()
    monkeypatch.setattr(torch.compiler, "reset", lambda: pytest.fail("nothing was compiled"))
    adapted("attn2o-ffni")
