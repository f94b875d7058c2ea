"""Score stored adapters again, with another sampler or other scorers: python evaluate.py --help."""

from __future__ import annotations

import sys
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig


@hydra.main(config_path="conf", config_name="evaluate", version_base="1.3")
def main(config: Any) -> None:
    from sdpet.study.again import evaluate_again

    try:
        evaluate_again(config, HydraConfig.get().overrides.task)
    except ValueError as error:  # SystemExit passes Hydra in silence
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    from sdpet.study.errors import run_command

    run_command(main)
