"""The samplers against their published update rules, written out here in float64 with numpy, and against diffusers.

The model is a function of latents, timestep and text that is not linear in any of them, so that a rule that calls it
at another timestep, or with other latents, gives other images.
"""

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, PNDMScheduler

from sdpet.choices import DIFFUSION_SAMPLERS as SAMPLERS
from sdpet.models.families.stable_diffusion import StableDiffusion
from sdpet.models.noising import Diffusion
from sdpet.sampling import SamplerConfig, Start, denoise
from sdpet.sampling.samplers import spread_timesteps
from sdpet.seeds import generator

SCHEDULER = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False}
ALPHAS = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)
TEXT, EMPTY, SEEDS, SHAPE = np.array([[0.7], [-0.4]]), np.array([[0.1]]), [5, 6], (4, 3, 5)
STEPS = (10, 20, 50, 30, 7, 600)  # the last three do not divide 1000


def model(x, t, text, sin=np.sin):
    """eps (N, C, h, w) for text (N, 1)."""
    return 0.6 * sin(1.3 * x + 0.002 * t) + 0.3 * text[..., None, None] + 0.2 * x


class Fake:
    """A BaseModel with the function above for a UNet."""

    device, latent_shape = torch.device("cpu"), SHAPE

    def __init__(self, dtype=torch.float64, prediction_type="epsilon"):
        self.dtype, self.rows = dtype, []
        self.scheduler = DDPMScheduler(**SCHEDULER, prediction_type=prediction_type)
        self.process = Diffusion(self.scheduler)
        self.family = StableDiffusion()

    is_flow = False

    def predict(self, noisy, timesteps, text, guidance):
        self.rows.append(len(noisy))
        eps = model(noisy, timesteps, text.flatten(1), torch.sin)
        if self.scheduler.config.prediction_type == "epsilon":
            return eps
        a = float(self.scheduler.alphas_cumprod[timesteps])  # v = sqrt(a) eps - sqrt(1 - a) x0
        x0 = (noisy - (1 - a) ** 0.5 * eps) / a**0.5
        return a**0.5 * eps - (1 - a) ** 0.5 * x0


def ours(sampler, base=None, start=None):
    text, empty = torch.tensor(TEXT)[:, None], torch.tensor(EMPTY)[:, None]  # (N, L = 1, D = 1)
    base = base or Fake()
    return denoise(base, text.to(base.dtype), empty.to(base.dtype), SEEDS, sampler, start=start).double().numpy()


def noises(count):
    """What the sampler draws for each image, in order: arrays (N, C, h, w)."""
    sources = [generator(seed, "image") for seed in SEEDS]
    return [np.stack([torch.randn(SHAPE, generator=s).double().numpy() for s in sources]) for _ in range(count)]


def guided(x, t, scale):
    without, with_text = model(x, t, np.repeat(EMPTY, 2, 0)), model(x, t, TEXT)
    return without + scale * (with_text - without)


def published_timesteps(steps):
    """1 + every (1000 / steps)-th, ascending, rounded down where steps does not divide 1000."""
    return [1 + int(np.floor(1000 * i / steps + 1e-9)) for i in range(steps)] if steps > 1 else [999]


def published_ddim(x, steps, scale, eta, fresh, skip=0):
    """Song et al. (2021), equation 12, from x at the noisiest of the timesteps that are left."""
    ascending = published_timesteps(steps)[: steps - skip]
    for i in reversed(range(len(ascending))):
        t, a = ascending[i], ALPHAS[ascending[i]]
        before = ALPHAS[ascending[i - 1]] if i else ALPHAS[0]
        eps = guided(x, t, scale)
        sigma = eta * np.sqrt((1 - before) / (1 - a)) * np.sqrt(1 - a / before)
        predicted = (x - np.sqrt(1 - a) * eps) / np.sqrt(a)
        x = np.sqrt(before) * predicted + np.sqrt(1 - before - sigma**2) * eps + (sigma * next(fresh) if eta else 0)
    return x


def published_plms(x, steps, scale):
    """Liu et al. (2022), as Stable Diffusion runs it: an improved Euler step, then orders 2, 3 and 4."""
    ascending, old = published_timesteps(steps), []

    def transfer(x, i, eps):
        a, before = ALPHAS[ascending[i]], ALPHAS[ascending[i - 1]] if i else ALPHAS[0]
        return np.sqrt(before) * (x - np.sqrt(1 - a) * eps) / np.sqrt(a) + np.sqrt(1 - before) * eps

    for i in reversed(range(steps)):
        e = guided(x, ascending[i], scale)
        if len(old) == 0:
            following = guided(transfer(x, i, e), ascending[i - 1] if i else 0, scale)
            mixed = (e + following) / 2
        elif len(old) == 1:
            mixed = (3 * e - old[-1]) / 2
        elif len(old) == 2:
            mixed = (23 * e - 16 * old[-1] + 5 * old[-2]) / 12
        else:
            mixed = (55 * e - 59 * old[-1] + 37 * old[-2] - 9 * old[-3]) / 24
        x, old = transfer(x, i, mixed), [*old, e]
    return x


def published_dpm(x, steps, scale):
    """Lu et al. (2022), algorithm 2 of DPM-Solver++, at the rounded timesteps of the uniform grid; sigma ends at 0.

    First order at both ends, the last because lambda is infinite there.
    """
    grid = np.linspace(0, 999, steps + 1).round().astype(int)[::-1][:-1]
    alpha, sigma = np.sqrt(ALPHAS[grid]), np.sqrt(1 - ALPHAS[grid])
    lam, data = np.log(alpha / sigma), []
    for i in range(steps):
        data.append((x - sigma[i] * guided(x, grid[i], scale)) / alpha[i])
        if i == steps - 1:
            return data[-1]  # sigma_t = 0 and alpha_t = 1
        h = lam[i + 1] - lam[i]
        mixed = data[-1]
        if i > 0:
            r = (lam[i] - lam[i - 1]) / h
            mixed = (1 + 1 / (2 * r)) * data[-1] - 1 / (2 * r) * data[-2]
        x = sigma[i + 1] / sigma[i] * x - alpha[i + 1] * np.expm1(-h) * mixed
    raise AssertionError


@pytest.mark.parametrize("steps", [*STEPS, 1])
@pytest.mark.parametrize("eta", [0.0, 0.6])
def test_ddim_follows_its_published_rule(steps, eta):
    start, *fresh = noises(steps + 1)
    theirs = published_ddim(start, steps, 7.5, eta, iter(fresh))
    np.testing.assert_allclose(ours(SamplerConfig("ddim", steps, 7.5, eta)), theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("steps", [*STEPS, 1, 2])
def test_plms_follows_its_published_rule(steps):
    theirs = published_plms(noises(1)[0], steps, 7.5)
    np.testing.assert_allclose(ours(SamplerConfig("plms", steps, 7.5)), theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("steps", [*STEPS, 1, 2])
def test_dpm_solver_follows_its_published_rule(steps):
    theirs = published_dpm(noises(1)[0], steps, 7.5)
    np.testing.assert_allclose(ours(SamplerConfig("dpm", steps, 7.5)), theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("name", "cls"), [("ddim", DDIMScheduler), ("plms", PNDMScheduler)])
@pytest.mark.parametrize("steps", [10, 20, 50])
def test_ddim_and_plms_agree_with_diffusers_where_steps_divide_1000(name, cls, steps):
    options = {"skip_prk_steps": True} if name == "plms" else {"clip_sample": False}
    config = {key: value for key, value in SCHEDULER.items() if key != "clip_sample"}
    theirs = cls(**config, steps_offset=1, set_alpha_to_one=False, **options)
    theirs.set_timesteps(steps)
    x = torch.tensor(noises(1)[0])
    for t in theirs.timesteps:
        x = theirs.step(torch.tensor(guided(x.numpy(), int(t), 7.5)), t, x).prev_sample
    np.testing.assert_allclose(ours(SamplerConfig(name, steps, 7.5)), x.numpy(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_model_that_predicts_v_gives_the_same_images(name):
    sampler = SamplerConfig(name, 12, 3.0)
    v = ours(sampler, Fake(prediction_type="v_prediction"))
    np.testing.assert_allclose(v, ours(sampler), rtol=1e-5, atol=1e-5)


def test_timesteps_for_every_number_of_steps():
    for steps in range(1, 1001):
        ascending = spread_timesteps(steps)[::-1]
        assert len(ascending) == len(set(ascending)) == steps and ascending[0] >= 0 and ascending[-1] <= 999
        assert ascending[-1] >= 1000 - 1000 / steps, "begins within one step of the end, where images are pure noise"
        if steps == 1:
            assert ascending == [999], "pure noise is denoised at the noisiest timestep"
        elif 1000 % steps == 0 and steps < 1000:
            assert ascending == list(range(1, 1001, 1000 // steps)), "the published ones"


@pytest.mark.parametrize("name", SAMPLERS)
def test_no_unconditional_pass_at_scale_1(name):
    base = Fake()
    ours(SamplerConfig(name, 5, 1.0), base)
    assert set(base.rows) == {2}
    assert len(base.rows) == (6 if name == "plms" else 5)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("strength", [0.0, 0.13, 0.75, 1.0])
def test_from_an_image_the_last_steps_are_taken(name, strength):
    """int(strength * steps) steps, begun at the level of noise of the first of them."""
    steps, base, image = 10, Fake(), np.random.default_rng(0).normal(size=(1, *SHAPE))
    taken = int(strength * steps)
    out = ours(SamplerConfig(name, steps, 7.5), base, Start(latents=torch.tensor(image), strength=strength))
    assert len(base.rows) == taken + (name == "plms" and taken > 0)
    if taken == 0:
        np.testing.assert_allclose(out, np.repeat(image, 2, 0))
    elif name == "ddim":
        a = ALPHAS[published_timesteps(steps)[taken - 1]]
        x = np.sqrt(a) * image + np.sqrt(1 - a) * noises(1)[0]
        theirs = published_ddim(x, steps, 7.5, 0.0, iter([]), skip=steps - taken)
        np.testing.assert_allclose(out, theirs, rtol=1e-4, atol=1e-4)


def test_all_samplers_lead_to_the_same_image_when_steps_are_many():
    images = [ours(SamplerConfig(name, 500, 2.0)) for name in SAMPLERS]
    for image in images[1:]:
        np.testing.assert_allclose(image, images[0], rtol=0.03, atol=0.05)  # they end at timestep 0 or before it


def test_start_of_other_size():
    assert ours(SamplerConfig("ddim", 4, 2.0), start=Start(size=(6, 2))).shape == (2, 4, 6, 2)


def test_one_starting_code_for_all_images_leaves_each_its_own_noise_of_the_steps():
    text = torch.ones(2, 1, 1, dtype=torch.float64)
    for eta in (0.0, 1.0):
        out = denoise(Fake(), text, text[:1], SEEDS, SamplerConfig("ddim", 4, 1.0, eta), start=Start(seeds=[9, 9]))
        assert torch.equal(out[0], out[1]) == (eta == 0)


def test_half_precision_models_are_sampled_in_float32():
    base = Fake(torch.bfloat16)
    out = denoise(base, *(torch.tensor(x, dtype=base.dtype)[:, None] for x in (TEXT, EMPTY)), SEEDS, SamplerConfig())
    assert out.dtype == torch.float32
