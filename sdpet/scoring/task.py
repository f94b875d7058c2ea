"""What an evaluation needs of a task, as types. The tasks are in sdpet.tasks and sdpet.scoring.prompt_set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch

from sdpet.scoring.measures import Measure
from sdpet.scoring.plan import EvalImage, EvalPlan
from sdpet.scoring.scorers import Scorer, Scorers


@runtime_checkable
class EvalTask(Protocol):
    """What an evaluation needs of a task: images to draw, how they are scored, and what identifies the references."""

    name: str

    def eval_images(self, plan: EvalPlan) -> list[EvalImage]:
        """The images to draw.

        Parameters
        ----------
        plan : EvalPlan
            Numbers of images.

        Returns
        -------
        list of EvalImage
            In the order in which they are drawn.
        """
        ...

    def measures(self, scorers: Scorers, plan: EvalPlan) -> list[Measure]:
        """How the images are scored.

        Parameters
        ----------
        scorers : Scorers
            The available networks.
        plan : EvalPlan
            Names the distances.

        Returns
        -------
        list of Measure
        """
        ...

    def scores(
        self,
        images: np.ndarray,
        eval_images: Sequence[EvalImage],
        scorer: Scorer | Scorers,
        plan: EvalPlan | None = None,
    ) -> dict[str, float]:
        """Score drawn images.

        Parameters
        ----------
        images : ndarray of uint8, (N, H, W, 3)
            Drawn images.
        eval_images : sequence of EvalImage, N
            What each image was drawn for.
        scorer : Scorer or Scorers
            One image-text model, or several networks by name.
        plan : EvalPlan, optional
            Names the distances.

        Returns
        -------
        dict of str to float
        """
        ...

    def ceiling(self, scorer: Scorer | Scorers, plan: EvalPlan) -> dict[str, float]:
        """Score real images in place of drawn ones.

        Parameters
        ----------
        scorer : Scorer or Scorers
            One image-text model, or several networks by name.
        plan : EvalPlan
            Numbers of images.

        Returns
        -------
        dict of str to float
            Empty where the task has no real images set aside.
        """
        ...

    def ceiling_hash(self, plan: EvalPlan) -> str | None:
        """Hash of the real images behind `ceiling`.

        Parameters
        ----------
        plan : EvalPlan
            Numbers of images.

        Returns
        -------
        str or None
            None where there are none.
        """
        ...

    def reference_protocol(self) -> dict[str, Any]:
        """Identify the reference images.

        Returns
        -------
        dict
            Entries of the protocol, values that JSON can hold.
        """
        ...


@runtime_checkable
class SubjectTask(EvalTask, Protocol):
    """A task about one subject and its class, for which the noise difference can be measured.

    Attributes
    ----------
    prompt, class_prompt : str
        Prompts of the subject and of its class.
    class_hash : str or None
        Hash of the class images; None where there are none.
    """

    prompt: str
    class_prompt: str
    class_hash: str | None

    @property
    def class_latents(self) -> torch.Tensor | None:
        """Latents (N, C, h, w) of the class images; None where there are none."""
        ...
