"""Score stored adapters again, or any images: python evaluate.py --help."""

from __future__ import annotations

import sys
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig


@hydra.main(config_path="conf", config_name="evaluate", version_base="1.3")
def main(config: Any) -> None:
    from sdpet.commands.errors import sentence
    from sdpet.commands.evaluate_images import evaluate_images
    from sdpet.commands.evaluate_runs import evaluate_again
    from sdpet.commands.guidance_curve import evaluate_curve

    overrides = HydraConfig.get().overrides.task
    try:
        if config.curve:
            evaluate_curve(config, overrides)
        elif config.images is not None:
            evaluate_images(config)
        else:
            evaluate_again(config, overrides)
    except ValueError as error:  # Hydra prints no traceback for SystemExit
        sys.exit(f"error: {sentence(error)}")


if __name__ == "__main__":
    from sdpet.commands.errors import run_command

    run_command(main)
