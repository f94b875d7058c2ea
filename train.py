"""Train one adapter design or, with -m, a study of many: python train.py --help."""

from __future__ import annotations

import sys
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import open_dict

ended: list[bool] = []  # whether the run finished


@hydra.main(config_path="conf", config_name="config", version_base="1.3")
def main(config: Any) -> Any:
    with open_dict(config):
        objective = config.pop("objective", None)  # the score that other sweepers of Hydra search for
    if HydraConfig.get().mode == RunMode.MULTIRUN:  # a job of a third-party launcher
        if config.get("fleet"):
            from sdpet.commands.train import fleet_job

            return fleet_job(config.fleet)
        from sdpet.runs import run

        record = run(config)
        return record if objective is None or record is None else record.objective(objective)
    from sdpet.commands.errors import sentence
    from sdpet.commands.train import TrainCommand, require_single_run
    from sdpet.runs import run_together

    try:
        require_single_run(HydraConfig.get().runtime.choices.get("sweeps"))
        command = TrainCommand(config)
        record = command.copy
        if record is None:
            with command.shown() as resources:
                [record] = run_together([command.config], resources, command.bar, wait=True)
        ended.append(command.report(record))
        if objective is not None and record is not None:
            return record.objective(objective)
    except ValueError as error:  # Hydra prints no traceback for SystemExit
        sys.exit(f"error: {sentence(error)}")
    return ended[-1]  # so that Hydra's callbacks see the end of the job


if __name__ == "__main__":
    from sdpet.commands.errors import run_command

    flags = {"--dry-run": "hydra.sweeper.dry_run=true", "--register": "hydra.sweeper.register=true"}
    if given := [flag for flag in flags if flag in sys.argv]:  # Hydra accepts only its own flags
        rest = [argument for argument in sys.argv[1:] if argument not in (*flags, "-m", "--multirun")]
        sys.argv = [sys.argv[0], "-m", *rest, *(flags[flag] for flag in given)]
    run_command(main)
    sys.exit(0 if all(ended) else 1)
