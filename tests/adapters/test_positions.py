"""The table of positions and the designs made from it."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from sdpet.adapters import INPUTS, OUTPUTS, PLACEMENTS, AdapterSpec
from sdpet.adapters.positions import component, datapath_order
from sdpet.adapters.tables import UNET_TABLES, cross, joint, single

PUBLISHED = [
    "attn1i-attn1i", "attn1i-attn2i", "attn1i-ffni", "attn1i-transo", "attn1o-attn2i", "attn1o-ffni", "attn1o-transo",
    "attn2i-attn2i", "attn2i-ffni", "attn2i-transo", "attn2o-ffni", "attn2o-transo", "ffni-ffni", "ffni-transo",
    "ffno-transo", "transo-transo", "attn2c-attn2c", "resi-resi", "resi-reso", "reso-reso",
]  # fmt: skip


def test_placements_are_the_published_configuration_files():
    assert len(PLACEMENTS) == 20 and set(PLACEMENTS) == set(PUBLISHED)
    assert len(INPUTS) == 10 and len(OUTPUTS) == 7
    assert {component(p) for p in PLACEMENTS} == {"transformer", "context", "resnet"}


def test_every_other_pair_is_refused_with_the_valid_choices():
    for din in INPUTS:
        valid = [p.split("-")[1] for p in PUBLISHED if p.split("-")[0] == din]
        for dout in INPUTS:
            if dout in valid:
                assert AdapterSpec(din, dout).placement == f"{din}-{dout}"
            else:
                with pytest.raises(ValueError, match=f"from {din} write to .*{valid[-1]}"):
                    AdapterSpec(din, dout)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"din": "attn3"}, "Unknown position 'attn3'; the positions are attn1i, attn1o, attn2i, attn2c, attn2o, ffni"),
        ({"din": "CA_out"}, "the paper's CA_out is attn2o"),
        ({"dout": None}, "Unknown position None"),
        ({"dout": "attn2i"}, "attn2i comes before attn2o on the datapath; from attn2o write to ffni or transo"),
        ({"dout": "reso"}, "attn2o is in the transformer block and reso in the resnet block"),
        ({"dout": "attn2c"}, "different tokens"),
        ({"dout": "ffno"}, "ffno can be read but not written"),
        ({"activation": "swish"}, "Unknown activation 'swish'; choose one of relu, sig, silu, ident"),
        ({"init": "ones"}, "Unknown init 'ones'; choose one of zero, default"),
        ({"mid_dim": 0}, "at least 1, not 0"),
        ({"mid_dim": 2.5}, "whole number of at least 1, not 2.5"),
        ({"scale": float("nan")}, "scale must be a finite number, not nan"),
        ({"scale": "1"}, "scale must be a finite number, not '1'"),
    ],
)
def test_what_cannot_work_is_one_sentence(change, message):
    with pytest.raises(ValueError, match=message) as caught:
        AdapterSpec(**{"din": "attn2o", "dout": "ffni", **change})
    assert "\n" not in str(caught.value)


def test_parse():
    assert AdapterSpec.parse("attn2o-ffni", mid_dim=8) == AdapterSpec("attn2o", "ffni", mid_dim=8)
    with pytest.raises(ValueError, match="not a placement `din-dout`; the placements are attn1i-attn1i"):
        AdapterSpec.parse("attn2o")


def test_designs_are_free_of_torch():
    code = """
import sys, sdpet, sdpet.adapters.positions
from sdpet.adapters import AdapterSpec
from sdpet import AdapterSpec as same
assert same is AdapterSpec
assert sdpet.__version__
loaded = {m.split(".")[0] for m in sys.modules} & {"torch", "diffusers", "numpy", "safetensors"}
sys.exit(f"loaded: {loaded}" if loaded else 0)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_drawings_are_those_that_the_code_draws_and_show_every_position():
    docs = Path(__file__).parents[2] / "docs"
    spec = importlib.util.spec_from_file_location("datapaths", docs / "datapaths.py")
    drawings = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(drawings)
    page = (docs / "explanation" / "design-space.md").read_text()
    tables = {
        "unet": UNET_TABLES, "joint": (joint.FLUX, joint.QWEN), "dual": (joint.SD3,), "single": (single.FLUX,),
        "cross": (cross.PIXART, cross.SANA, cross.WAN),
    }  # fmt: skip
    assert tables.keys() == drawings.DRAWINGS.keys()
    for name, described in tables.items():
        assert (docs / "images" / f"datapath-{name}.svg").read_text() == drawings.svg(name)
        assert f"images/datapath-{name}.svg" in page
        alike = [described] if name == "unet" else [(table,) for table in described]  # a UNet has two kinds of blocks
        for of_model in alike:
            places = [place for table in of_model for place in table.places]
            assert {place.name for place in places if place.stream != place.name} == set(drawings.positions(name))


def test_several_placements_are_in_datapath_order():
    assert sorted(PLACEMENTS, key=datapath_order) == list(PLACEMENTS)
    spec = AdapterSpec(placements=("attn2.q-attn2.q", "attn1.out-attn1.out", "attn1.q-attn1.q"), form="lowrank")
    assert spec.placements == ("attn1.q-attn1.q", "attn1.out-attn1.out", "attn2.q-attn2.q")
