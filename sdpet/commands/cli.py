"""The command `sdpet`: everything except training and analysis. Each subcommand is a module with `main(arguments)`."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

# command: its module, and its description
COMMANDS = {
    "txt2img": ("sdpet.commands.scripts.txt2img", "draw images from prompts, with or without adapters"),
    "img2img": ("sdpet.commands.scripts.img2img", "draw images from an image and a prompt"),
    "adapters": ("sdpet.commands.adapters", "show, convert and share saved adapters"),
    "doctor": (
        "sdpet.commands.doctor",
        "check that everything needed for a study, or for a model and design, is installed",
    ),
    "lab": ("sdpet.commands.lab", "check the lab against its gates, or train its weights again"),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a subcommand and exit.

    Exit status: 0 if it succeeds, 1 with one sentence for an error the user can correct, 2 for a wrong command line,
    130 if it is interrupted. The environment variable HYDRA_FULL_ERROR=1 shows tracebacks, as for train.py.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] in ("-h", "--help"):
        print(overview(), end="")
        return
    command, *rest = given
    if command not in COMMANDS:
        print(f"error: there is no command {command!r}; choose one of {', '.join(COMMANDS)}.", file=sys.stderr)
        sys.exit(2)
    from sdpet.commands.errors import set_up_process

    set_up_process()
    run = importlib.import_module(COMMANDS[command][0]).main
    if os.environ.get("HYDRA_FULL_ERROR") == "1":
        sys.exit(run(rest))
    try:
        sys.exit(run(rest))
    except (ValueError, OSError) as error:
        from sdpet.commands.errors import sentence

        print(f"error: {sentence(error)}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("\nInterrupted.", file=sys.stderr)
        sys.exit(130)


def overview() -> str:
    """The help text, with all subcommands."""
    width = max(map(len, COMMANDS))
    lines = [f"  sdpet {name:<{width}}  {purpose}" for name, (_, purpose) in COMMANDS.items()]
    return "\n".join(
        [
            'example: sdpet txt2img --model lab --prompt "a photo of a red star on an orange background"',
            "",
            "commands, each with --help:",
            *lines,
            "",
            "Training and analysis: python train.py --help, python evaluate.py --help, python -m analysis --help",
            "",
        ]
    )


if __name__ == "__main__":
    main()
