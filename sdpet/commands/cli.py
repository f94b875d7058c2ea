"""The command `sdpet`, with everything that there is to do. Each subcommand is a module with `main(arguments)`."""

from __future__ import annotations

import importlib
import io
import os
import re
import runpy
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from functools import partial
from typing import NoReturn

from sdpet.files.command_parser import typed_as_sdpet
from sdpet.files.project import PROJECT, for_wheel

# command: its module and first arguments, or its script in the project's folder, and its description
COMMANDS = {
    "train": ("train.py", "train one adapter design or, with -m, a study of many"),
    "evaluate": ("evaluate.py", "score stored adapters again, or any images"),
    "analyse": ("analysis.__main__", "say which factor of a study matters: a page with tests, figures and samples"),
    "status": ("sdpet.study.__main__ status", "how far a study is, also while it runs"),
    "verify": ("sdpet.study.__main__ verify", "which files of a study were changed, damaged or lost"),
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
    with typed_as_sdpet():
        _run(command, rest)


def _run(command: str, rest: list[str]) -> NoReturn:
    run = _function(*COMMANDS[command][0].split())
    if rest and rest[0] in ("-h", "--help"):
        run = partial(_helped, run)
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


def _function(module: str, *first: str) -> Callable[[list[str]], int | None]:
    """The function of a subcommand, which takes its arguments."""
    if module.endswith(".py"):
        return partial(_run_script, module)
    main = importlib.import_module(module).main
    return lambda rest: main([*first, *rest])


def _run_script(script: str, arguments: list[str]) -> None:
    """Do what `python SCRIPT ARGUMENTS` does, in this process."""
    before, sys.argv = sys.argv, [script, *arguments]
    try:
        runpy.run_path(str(PROJECT / script), run_name="__main__")
    finally:
        sys.argv = before


def _helped(run: Callable[[list[str]], int | None], arguments: list[str]) -> int | None:
    """Print a help text with the commands as `sdpet` has them, whatever the module calls itself."""
    text = io.StringIO()
    try:
        with redirect_stdout(text):
            return run(arguments)
    finally:
        print(re.sub(r"(?i)\Aexample:\s+", "example: ", for_wheel(text.getvalue())), end="")


def overview() -> str:
    """The help text, with all subcommands."""
    width = max(map(len, COMMANDS))
    lines = [f"  sdpet {name:<{width}}  {purpose}" for name, (_, purpose) in COMMANDS.items()]
    return "\n".join(
        [
            "example: sdpet train adapter=attn2o-ffni",
            "",
            "commands, each with --help:",
            *lines,
            "",
            "The first three are also python train.py and python evaluate.py, in a checkout, and python -m analysis.",
            "",
        ]
    )


if __name__ == "__main__":
    main()
