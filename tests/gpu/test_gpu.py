"""On a CUDA device: the same adapters as on the CPU, alone and in fleets, and the memory that doctor expects."""

import numpy as np
import pytest
import torch
from gpu_agreement import TOLERANCE, alone, difference, lab, one_process, together, without_tf32
from gpu_parts import doctor
from gpu_steps import Size

from sdpet.adapters import PLACEMENTS
from sdpet.sampling import SamplerConfig, sample

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.fixture(scope="module")
def host():
    return lab("cpu")


@pytest.fixture(scope="module")
def device():
    return lab("cuda")


@pytest.fixture(autouse=True)
def exact():
    with without_tf32():
        yield


@pytest.fixture(scope="module")
def fleet(device):
    with without_tf32():
        return together(*device, len(PLACEMENTS))


@pytest.mark.parametrize("number", range(len(PLACEMENTS)), ids=PLACEMENTS)
def test_cpu_device_and_fleet_train_the_same(host, device, fleet, number):
    expected = alone(*host, number)
    assert max(difference(alone(*device, number), expected)) < TOLERANCE
    assert max(difference(fleet[number], expected)) < TOLERANCE


@pytest.mark.parametrize(
    ("dtype", "precision"), [("float32", "bf16-mixed"), ("bfloat16", "bf16-mixed"), ("float32", "16-mixed")]
)
def test_lower_precision_trains_nearly_the_same(host, dtype, precision):
    base, task = lab("cuda", dtype)
    losses, weights = difference(alone(base, task, 0, precision=precision, clip=1.0), alone(*host, 0, clip=1.0))
    assert losses < 0.05
    assert weights < 0.2


def test_a_group_of_one_process_trains_the_same(device):
    backend, rank = one_process("cuda")
    assert backend == "nccl"
    assert max(difference(alone(*device, 0, rank), alone(*device, 0))) < TOLERANCE


def test_images_are_those_of_the_cpu(host, device):
    drawn = [sample(base, ["a photo of a star"] * 2, [0, 1], SamplerConfig(steps=5)) for base, _ in (host, device)]
    assert np.abs(drawn[0].astype(int) - drawn[1]).max() <= 2  # of 255


def test_doctor_expects_the_measured_memory():
    """Of the step at v1's size, within 15 %."""
    rows = list(doctor(Size("cuda", tiny=False)))
    assert [row for row in rows if not 0.85 < row["measured_over_expected"] < 1.15] == []
