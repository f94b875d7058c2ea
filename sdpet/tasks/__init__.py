"""What is learned: from which images, with which loss, and how the result is examined.

A task prepares everything frozen once (latents, text states) and then gives

    batch(seed, step) -> Batch      derived from (seed, step) alone
    loss(prediction, batch)         scalar
    shots(plan) -> list[Shot]       what a finished run draws
    scores(images, shots, scorer)   metrics of those images
    ceiling(scorer, plan)           metrics of real images, as far as there are any
    reference_protocol()            what identifies the images that scores compare with
    describe() -> dict              the record's "task"
"""

from sdpet.tasks.batch import Batch
from sdpet.tasks.dreambooth import DreamBoothTask
from sdpet.tasks.finetune import FinetuneTask

Task = DreamBoothTask | FinetuneTask
TASKS: dict[str, type[DreamBoothTask] | type[FinetuneTask]] = {
    task.name: task for task in (DreamBoothTask, FinetuneTask)
}

__all__ = ["TASKS", "Batch", "DreamBoothTask", "FinetuneTask", "Task"]
