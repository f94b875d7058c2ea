"""How much the subject's token changes the predicted noise, as a number and as a map over the image.

A model trained by flow matching predicts the velocity, noise - x0, and its change is measured instead. At a noise level
s the velocity's change is that of the noise divided by 1 - s, so numbers of the two kinds of models do not compare.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from sdpet.models.base import BaseModel
from sdpet.scoring.plan import EvalPlan
from sdpet.scoring.precision import autocast
from sdpet.scoring.task import EvalTask, SubjectTask
from sdpet.seeds import generator

LEVELS = (1 / 8, 3 / 8, 5 / 8, 7 / 8)  # shares of the noise schedule's timesteps
METRIC = "noise_difference"
LATENT_PIXELS = 2**18  # that the denoiser takes at a time: 64 rows of 64 x 64, as in drawing 32 images with guidance


def why_unavailable(task: EvalTask, plan: EvalPlan) -> str | None:
    """Say why the noise difference cannot be measured.

    Parameters
    ----------
    task : EvalTask
        Only a `SubjectTask` with class images has a noise difference.
    plan : EvalPlan
        Its noise_images may be 0.

    Returns
    -------
    str or None
        The reason; None where it can be measured.
    """
    if not isinstance(task, SubjectTask):
        return "the task has no subject"
    if plan.noise_images == 0:
        return "eval.noise_images is 0"
    return None if task.class_latents is not None else "there are no class images (data.class_dir)"


@torch.no_grad()
def noise_differences(base: BaseModel, task: SubjectTask, seeds: Sequence[int], plan: EvalPlan) -> np.ndarray:
    """Absolute difference between the noise predicted for the subject's prompt and for the class's prompt.

    Of a flow matching model it is the difference of the predicted velocity; `protocol_entry` says so. It is the mean
    over plan.noise_images class images, the noise levels LEVELS and the channels of the latents.

    Parameters
    ----------
    base : BaseModel
        The model, with whatever is attached to it.
    task : SubjectTask
        A task for which `why_unavailable` gives None.
    seeds : sequence of int, K
        Seeds of the noise, one for each member of a fleet, in the order of their rows.
    plan : EvalPlan
        Its noise_images is the number of class images.

    Returns
    -------
    ndarray of float32, (K, h, w)
        In units of the noise, whose standard deviation is 1, or of the velocity.

    Raises
    ------
    ValueError
        The task has no class images.

    References
    ----------
    Xiang et al. 2023, arXiv 2303.18181.
    """
    latents = _class_latents(task)[: plan.noise_images]  # (n, C, h, w)
    text = base.encode_text([task.prompt, task.class_prompt])  # (2, L, D)
    process = base.process
    n, members = len(latents), len(seeds)
    noise = [torch.randn(latents.shape, generator=generator(seed, "noise difference")) for seed in seeds]
    total = torch.zeros(members, *latents.shape[2:], dtype=torch.float64)
    at_once = max(1, LATENT_PIXELS // (2 * members * latents.shape[2] * latents.shape[3]))  # images
    for level in LEVELS:
        changes = []
        for first in range(0, n, at_once):
            part = slice(first, first + at_once)
            clean = latents[part].repeat(members, 1, 1, 1)  # member after member
            t = process.at(level, len(clean)).to(base.device)
            noisy = process.add_noise(clean, torch.cat([own[part] for own in noise]).to(clean), t)
            change = _change(base, noisy, t, text, plan)  # (K n', h, w)
            changes.append(change.unflatten(0, (members, -1)))
        total += torch.cat(changes, dim=1).mean(dim=1).double().cpu()
    return (total / len(LEVELS)).float().numpy()


def _change(base: BaseModel, noisy: torch.Tensor, t: torch.Tensor, text: torch.Tensor, plan: EvalPlan) -> torch.Tensor:
    """The absolute change (B, h, w) of the noise predicted in (B, C, h, w), from the second text to the first."""
    # An image's two rows are adjacent, so that the rows of each member of a fleet stay together.
    both, times = noisy.repeat_interleave(2, dim=0), t.repeat_interleave(2)
    with autocast(plan.autocast, base.device.type):
        out = base.predict(both, times, text.repeat(len(noisy), 1, 1)).to(both.dtype)
    if base.process.predicts == "v_prediction":  # noise = sqrt(a) v + sqrt(1 - a) x
        alphas_cumprod = base.scheduler.alphas_cumprod.to(out)[times].view(-1, 1, 1, 1)
        out = alphas_cumprod.sqrt() * out + (1 - alphas_cumprod).sqrt() * both
    with_subject, without = out.float().unflatten(0, (-1, 2)).unbind(1)
    return (with_subject - without).abs().mean(dim=1)


def protocol_entry(base: BaseModel, task: SubjectTask, plan: EvalPlan) -> dict[str, Any]:
    """Describe for the protocol how the noise difference is made.

    Parameters
    ----------
    base, task, plan
        As for `noise_differences`.

    Returns
    -------
    dict
        Values that JSON can hold. "quantity" is "velocity" for flow matching, and absent where it is the noise;
        "autocast" is absent without mixed precision.
    """
    velocity = {"quantity": "velocity"} if base.is_flow else {}  # not said of the noise, as protocols stay as they were
    mixed = {} if plan.autocast is None else {"autocast": plan.autocast}
    return (
        velocity
        | mixed
        | {
            "scorer": "the model itself",
            "images": {"class": min(plan.noise_images, len(_class_latents(task)))},
            "levels": list(LEVELS),
            "prompts": [task.prompt, task.class_prompt],
            "images_hash": task.class_hash,
            "against": "class prompt",
        }
    )


def _class_latents(task: SubjectTask) -> torch.Tensor:
    if task.class_latents is None:
        raise ValueError("the noise difference needs class images; give the task a class_dir.")
    return task.class_latents
