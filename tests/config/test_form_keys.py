"""The keys of a design beyond the paper's: which run they name, and what they refuse."""

import pytest
from study_tools import composed

from sdpet.config import InadmissibleCell, name_of, run_id, validate

SAME = [
    ("form=bottleneck", "adapter.blocks=all", "adapter.when=[0,1]", "adapter.placements=null"),
    ("adapter.placements=[attn2o-ffni]", "adapter.where=unet"),
    ("adapter.activation=ReLU", "adapter.when=[0.0,1]"),
]
OTHERS = [
    ("form=lowrank",),
    ("form=gated",),
    ("form=conv",),
    ("form=conv", "form.kernel=5"),
    ("form=scale_shift",),
    ("form=custom", "form._target_=own_form.Gated"),
    ("form=custom", "form._target_=own_form.Gated", "+form.gates=2"),
    ("adapter.blocks=down",),
    ("adapter.when=[0,0.5]",),
    ("adapter=attn1o-ffni", "adapter.where=text_encoder"),
    ("adapter=attn1o-ffni", "adapter.where=both"),
    ("adapter=lora", "adapter.where=both"),
    ("adapter.placements=[attn2o-ffni,resi-resi]",),
]


def test_what_changes_nothing_is_not_part_of_a_runs_id():
    default = run_id(validate(composed()))
    assert default == "364ea6f689bf"  # of version 0.1.0
    assert {run_id(validate(composed(*overrides))) for overrides in SAME} == {default}
    ids = [run_id(validate(composed(*overrides))) for overrides in OTHERS]
    assert len({*ids, default}) == len(OTHERS) + 1
    swapped = validate(composed("adapter.placements=[resi-resi,attn2o-ffni]"))
    assert run_id(swapped) == ids[-1]  # the order of placements means nothing


def test_a_stored_config_without_the_group_is_the_papers_form():
    config = dict(validate(composed()).values)
    del config["form"]
    assert run_id(validate(config)) == "364ea6f689bf" and validate(config).form.is_default


def test_the_name_of_a_run_says_what_is_not_the_papers():
    overrides = ("form=conv", "adapter.blocks=down", "adapter.when=[0,0.5]", "seed=2")
    assert name_of(validate(composed(*overrides)), overrides) == "attn2o-ffni conv kernel 3 down when 0-0.5 seed 2"
    both = validate(composed("adapter=lora", "adapter.where=both"))
    assert name_of(both, ("adapter=lora", "adapter.where=both")) == "lora denoiser and text encoder seed 0"
    own = validate(composed("form=custom", "form._target_=own_form.Gated", "+form.gates=2"))
    assert name_of(own) == "attn2o-ffni Gated gates 2 seed 0"
    assert name_of(validate(composed("adapter.placements=[resi-resi,attn2o-ffni]"))) == "attn2o-ffni+resi-resi seed 0"


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (("form=lowrank", "adapter.activation=relu"), "form lowrank takes no activation; set adapter.activation=null"),
        (("form=scale_shift", "adapter.params=1000"), "form scale_shift takes no params; set adapter.params=null"),
        (("adapter=lora", "form=gated"), "method lora takes no form"),
        (("adapter=full", "adapter.blocks=down"), "method full takes no adapter.blocks"),
        (("form=conv", "adapter=attn2c-attn2c"), "conv needs tokens on a grid, and at attn2c-attn2c they are text"),
        (("adapter.din=transo", "adapter.dout=attn1i"), "attn1i comes before transo"),
    ],
)
def test_combinations_that_cannot_exist_are_left_out_of_a_sweep(overrides, says):
    with pytest.raises(InadmissibleCell, match=says):
        validate(composed(*overrides))


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (("form=custom",), r"form\._target_ must be given"),
        (("form=custom", "form._target_=Gated"), r"form\._target_ must be the Python path of a class, .* not 'Gated'"),
        (("form=custom", "form._target_=own_form.Gone"), r"own_form\.Gone cannot be imported"),
        (("form=custom", "form._target_=own_form.Gated", "+form.gats=2"), "no option 'gats'; its options are gates"),
        (("+form.gates=2",), "the form bottleneck has no option 'gates'; it has none"),
        (("+form._target_=own_form.Gated",), "needs form=custom"),
        (("adapter.when=[1,0]",), r"adapter\.when: .* 0 <= first < second <= 1"),
        (("adapter.blocks='(('",), r"adapter\.blocks: .* no regular expression"),
        (("adapter.placements=[attn2o-ffni,attn2o-ffni]",), "placements must differ"),
        (("adapter.placements=[attn2o-attn1i]",), "attn1i comes before attn2o"),
        (("adapter.activation=swish",), "Unknown activation 'swish'; choose one of relu, sig"),
    ],
)
def test_one_sentence_names_the_cause(overrides, says):
    with pytest.raises(ValueError, match=says) as caught:
        validate(composed(*overrides))
    assert not isinstance(caught.value, InadmissibleCell) and "\n" not in str(caught.value)
