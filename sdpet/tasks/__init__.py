"""Tasks: what is learned, from which images, with which loss, and how the result is evaluated.

A task prepares everything frozen once (latents, text states). Then it gives batches and their loss. `Task` is its
interface, and `SubjectSource` and `CaptionedSource` are those of data:

    batch(seed, step) -> Batch       a function of (seed, step) alone
    loss(prediction, batch)          scalar
    eval_images(plan)                      the images that a finished run draws
    measures(scorers, plan)          how they are scored
    scores(images, eval_images, scorer)    metrics of drawn images
    ceiling(scorer, plan)            metrics of real images, where there are any
    reference_protocol()             what identifies the references
    describe() -> dict               the entry "task" of a record
"""

from sdpet.tasks.batch import Batch, concat_batches, epoch_indices, make_noisy_batch, weighted_mse
from sdpet.tasks.captioned import read_captioned
from sdpet.tasks.class_images import class_folder
from sdpet.tasks.digits import load_digits
from sdpet.tasks.dreambooth import DreamBoothTask
from sdpet.tasks.finetune import FinetuneTask
from sdpet.tasks.latent_cache import LatentCache
from sdpet.tasks.own_data import own_data_arguments
from sdpet.tasks.protocols import CaptionedSource, SubjectSource, Task

TASKS: dict[str, type[DreamBoothTask] | type[FinetuneTask]] = {
    task.name: task for task in (DreamBoothTask, FinetuneTask)
}

__all__ = [
    "TASKS",
    "Batch",
    "CaptionedSource",
    "DreamBoothTask",
    "FinetuneTask",
    "LatentCache",
    "SubjectSource",
    "Task",
    "class_folder",
    "concat_batches",
    "epoch_indices",
    "load_digits",
    "make_noisy_batch",
    "own_data_arguments",
    "read_captioned",
    "weighted_mse",
]
