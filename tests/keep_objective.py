"""A callback of Hydra that keeps what each job returned, as a sweeper of another package gets it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback


class Keep(Callback):
    """Appends the type and value that a job returned to the file named by KEPT."""

    def on_job_end(self, config: Any, job_return: Any, **kwargs: Any) -> None:
        value = job_return.return_value
        with Path(os.environ["KEPT"]).open("a") as file:
            file.write(f"{type(value).__name__} {value}\n")
