"""What the subject's word changes in the predicted noise: the paper's look into a tuned model, as number and map."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sdpet.models.base import BaseModel
from sdpet.scoring.plan import EvalPlan
from sdpet.seeds import generator

if TYPE_CHECKING:
    from sdpet.tasks import Task

LEVELS = (1 / 8, 3 / 8, 5 / 8, 7 / 8)  # of the noise schedule
METRIC = "noise_difference"


def lacking(task: Task, plan: EvalPlan) -> str | None:
    """Why there is no noise difference, or None if there is one."""
    if task.name != "dreambooth":
        return "the task has no subject"
    if plan.noise_images == 0:
        return "eval.noise_images is 0"
    return None if getattr(task, "class_latents", None) is not None else "there are no class images (data.class_dir)"


@torch.no_grad()
def noise_differences(base: BaseModel, task: Any, seeds: Sequence[int], plan: EvalPlan) -> np.ndarray:
    """Absolute difference of the noise predicted for the subject's and for the class's prompt: float32 (K, h, w).

    Xiang et al. 2023 (arXiv 2303.18181): on class images, mean here over plan.noise_images of them, the noise levels
    LEVELS and the channels of the latents. task: one that `lacking` has nothing to say about; seeds: of the noise, one
    a member of a fleet in order of their rows.
    """
    latents = task.class_latents[: plan.noise_images]  # (n, C, h, w)
    text = base.encode_text([task.prompt, task.class_prompt])  # (2, L, D)
    scheduler = base.scheduler
    n, members = len(latents), len(seeds)
    noise = [torch.randn(latents.shape, generator=generator(seed, "noise difference")) for seed in seeds]
    clean = latents.repeat(members, 1, 1, 1)  # member after member
    total = torch.zeros(members, *latents.shape[2:], dtype=torch.float64)
    for level in LEVELS:
        t = torch.full((members * n,), int(level * scheduler.config.num_train_timesteps), device=base.device)
        noisy = scheduler.add_noise(clean, torch.cat(noise).to(clean), t)
        # An image's two rows stand together, so that the rows of each member of a fleet do.
        both, times = noisy.repeat_interleave(2, dim=0), t.repeat_interleave(2)
        out = base.predict(both, times, text.repeat(members * n, 1, 1))
        if base.prediction_type == "v_prediction":  # noise = sqrt(a) v + sqrt(1 - a) x
            kept = scheduler.alphas_cumprod.to(out)[times].view(-1, 1, 1, 1)
            out = kept.sqrt() * out + (1 - kept).sqrt() * both
        with_subject, without = out.float().unflatten(0, (-1, 2)).unbind(1)
        change = (with_subject - without).abs().mean(dim=1)  # (K n, h, w)
        total += change.unflatten(0, (members, n)).mean(dim=1).double().cpu()
    return (total / len(LEVELS)).float().numpy()


def described(task: Any, plan: EvalPlan) -> dict[str, Any]:
    """How the difference is made, for the protocol."""
    return {
        "scorer": "the model itself",
        "images": {"class": min(plan.noise_images, len(task.class_latents))},
        "levels": list(LEVELS),
        "prompts": [task.prompt, task.class_prompt],
        "images_hash": task.class_hash,
        "against": "class prompt",
    }
