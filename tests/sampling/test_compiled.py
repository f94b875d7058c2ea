"""The denoiser compiled while images are drawn: the same images, where it is asked for and where it pays."""

import contextlib
import json

import numpy as np
import pytest
import torch

from sdpet.adapters import AdapterSpec
from sdpet.methods import Design, build_fleet
from sdpet.sampling import SamplerConfig, compiling, sample_together

PROMPTS, SEEDS = ["red star", "blue ring", "red star"], [[3, 1, 2], [5, 6, 7]]


@pytest.mark.parametrize("real", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["counted", "by torch"])
def test_a_compiled_fleet_draws_the_same_images(tiny_base, monkeypatch, real):
    """Whole chunks run as compiled code, with the fleet's hooks in it; the rest and what comes later do not."""
    compiled, calls = torch.compile, []

    def counting(graph, inputs=None):
        return lambda *given, **more: calls.append(1) or graph(*given, **more)

    monkeypatch.setattr(torch, "compile", lambda f, mode=None: compiled(f, backend=counting) if real else counting(f))
    designs = [Design("adapter", AdapterSpec.parse(name, mid_dim=3)) for name in ("attn2o-ffni", "resi-reso")]
    fleet = build_fleet(tiny_base, designs, [0, 1])
    try:
        with torch.no_grad():
            for index in range(2):
                fleet.vector(index).normal_(0, 0.3, generator=torch.Generator().manual_seed(index))
        plain = sample_together(tiny_base, PROMPTS, SEEDS, SamplerConfig("ddim", 3, 1.0), chunk=4)
        again = sample_together(tiny_base, PROMPTS, SEEDS, SamplerConfig("ddim", 3, 1.0, compile=True), chunk=4)
    finally:
        fleet.detach()
    assert len(calls) == 3, "three steps of the one whole chunk"
    assert tiny_base.unet._compiled_call_impl is None
    untuned = sample_together(tiny_base, PROMPTS, SEEDS, SamplerConfig("ddim", 3, 1.0), chunk=4)
    for own, other, base in zip(plain, again, untuned, strict=True):
        assert np.abs(own.astype(int) - other).max() <= 1 < np.abs(own.astype(int) - base).max()


@pytest.mark.parametrize(
    ("plain", "first", "later", "compiles"),
    [(1.0, 20.0, 0.7, True), (1.0, 20.0, 0.8, False), (1.0, 60.0, 0.5, False), (0.4, None, None, False)],
    ids=["pays", "gains too little", "takes too long to compile", "too short to measure"],
)
def test_auto_compiles_where_a_measurement_says_that_it_pays(
    tiny_base, tmp_path, monkeypatch, plain, first, later, compiles
):
    times, used = [plain, first, later], []

    @contextlib.contextmanager
    def compiled(model):
        used.append("compiled")
        yield

    monkeypatch.setattr(compiling, "compiled", compiled)
    monkeypatch.setattr(compiling, "_seconds", lambda *given: times.pop(0))
    monkeypatch.setattr(compiling.shutil, "which", lambda name: name)
    sampler = SamplerConfig("ddim", 50, compile="auto", measured=tmp_path / "measured")

    def draw(images):
        used.clear()
        with compiling.compiled_chunks(tiny_base, sampler, lambda: None, images, 2):  # 100 passes
            pass
        return len(used)

    measured = first is not None
    assert draw(4) == measured + compiles  # once to measure, once to draw
    files = list((tmp_path / "measured").glob("*.json"))
    assert len(files) == measured
    if measured:
        assert json.loads(files[0].read_text())["compiling"] == first - later
        assert draw(4) == compiles and not times, "the stored measurement is used"
        times.extend([0.1])
        assert draw(5) == 0 and not times, "another number of images is another question"
        monkeypatch.setattr(compiling.shutil, "which", lambda name: None)
        assert draw(4) == 0, "without a C++ compiler the CPU draws as it does"


def test_what_cannot_be_compiled_is_drawn_as_it_is(tiny_base, monkeypatch, caplog):
    def broken(model):
        raise RuntimeError("no backend\nand more")

    monkeypatch.setattr(compiling, "compiled", broken)
    monkeypatch.setattr(compiling, "_seconds", lambda *given: 9.0)
    monkeypatch.setattr(compiling.shutil, "which", lambda name: name)
    with compiling.compiled_chunks(tiny_base, SamplerConfig(compile="auto"), lambda: None, 4, 1) as how:
        assert isinstance(how(4), contextlib.nullcontext)
    assert "could not be compiled (no backend)" in caplog.text
    with pytest.raises(ValueError, match="compile must be"):
        SamplerConfig(compile="yes")
