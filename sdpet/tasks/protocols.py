"""What sdpet asks of a task and of data, as types: the interfaces of one's own."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch

from sdpet.scoring.task import EvalTask
from sdpet.tasks.batch import Batch


@runtime_checkable
class Task(EvalTask, Protocol):
    """What is learned, from which images, with which loss, and (see `EvalTask`) how the result is scored.

    A task of one's own is a class with these methods: ``task=custom task._target_=my_lab.MyTask +task.strength=2``.
    Often a subclass of `DreamBoothTask` or `FinetuneTask` is enough. The class is called with those of these arguments
    that it names: `base` (the BaseModel; it must be named), `batch_size`, `cache` (a folder for what is computed once),
    the options of the group `task`, and the data. For subject data these are subject_dir, class_dir and heldout_dir
    (folders, or uint8 images (N, H, W, 3), or None), data (a name), prompt, class_prompt and token. For captioned data
    they are data (a folder or name), heldout_share, source, image_column and caption_column, or images, captions,
    heldout_images and heldout_captions.
    """

    def batch(self, seed: int, step: int) -> Batch:
        """Draw the batch of one training step.

        Parameters
        ----------
        seed, step : int
            The run's seed and the training step. The batch must depend on them alone, so that runs resume exactly; see
            `sdpet.tasks.make_noisy_batch` and `sdpet.tasks.epoch_indices`.

        Returns
        -------
        Batch
            With equally many images at every step.
        """
        ...

    def loss(self, prediction: torch.Tensor, batch: Batch) -> torch.Tensor:
        """The loss of one batch.

        Parameters
        ----------
        prediction : Tensor (B, C, h, w)
            The model's output.
        batch : Batch
            What it was asked for.

        Returns
        -------
        Tensor
            Scalar, float32. In a fleet each member's loss is computed on its own rows.
        """
        ...

    def describe(self) -> dict[str, Any]:
        """The entry "task" of a record.

        Returns
        -------
        dict
            Values that JSON can hold; "name" and "data" among them.
        """
        ...


@runtime_checkable
class SubjectSource(Protocol):
    """Data of a subject that are one's own: ``data=custom data.kind=subject data._target_=my_lab.Photos``.

    The class is called with the options of the group `data`, other than kind, name, prompt, class_prompt and token.
    """

    def subject_images(self, size: int) -> np.ndarray:
        """Photos of the subject.

        Parameters
        ----------
        size : int
            Side of the model's images in pixels.

        Returns
        -------
        ndarray of uint8, (N, size, size, 3)
        """
        ...

    def class_images(self, size: int) -> np.ndarray | None:
        """Images of the subject's class in the same format, for prior preservation; None where there are none."""
        ...

    def heldout_images(self, size: int) -> np.ndarray | None:
        """Further photos of the subject, whose scores are the ceiling; None where there are none."""
        ...


@runtime_checkable
class CaptionedSource(Protocol):
    """Captioned images that are one's own: ``data=custom data.kind=captions data._target_=my_lab.Scans``.

    The class is called with the options of the group `data`, other than kind and name.
    """

    def training(self, size: int) -> tuple[np.ndarray, list[str]]:
        """Images to train on, and their captions.

        Parameters
        ----------
        size : int
            Side of the model's images in pixels.

        Returns
        -------
        (ndarray of uint8 (N, size, size, 3), list of N str)
        """
        ...

    def heldout(self, size: int) -> tuple[np.ndarray, list[str]]:
        """Images and captions that runs are scored on, in the same format."""
        ...
