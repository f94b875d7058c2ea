"""What goes with which base model is said before any work, in one sentence with the valid choices."""

import pytest
from study_tools import composed

from sdpet.config import InadmissibleCell, validate

DIT = ("unet=lab_dit", "adapter.din=attn1o", "adapter.dout=ffni")


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["unet=lab_dit"], "no block of lab_dit has the placement attn2o-ffni; choose one of attn1i-attn1i"),
        (["adapter.din=text_attn1i", "adapter.dout=text_ffni"], "no block of lab has .*choose one of attn1i-attn1i"),
        ([*DIT, "sampler=ddim"], "sampler=ddim does not go with lab_dit, a flow matching model; choose dpm or euler"),
        (["sampler=euler"], "sampler=euler does not go with lab, a diffusion model; choose dpm or ddim or plms"),
        ([*DIT, "task.min_snr=5"], "task.min_snr weights the loss of diffusion models"),
        (["+unet.shift=3"], "unet.shift belongs to flow matching"),
        ([*DIT, "+unet.image_size=36"], "unet.image_size must be a multiple of 8, not 36"),
    ],
)
def test_what_does_not_go_with_a_model(overrides, words, tmp_path):
    with pytest.raises((InadmissibleCell, ValueError), match=words):
        validate(composed(*overrides, f"output_root={tmp_path}"))
