"""`sdpet lab check`, `sdpet lab pretrain` and `sdpet lab subjects`."""

from __future__ import annotations

import importlib.util
import runpy
import sys

from sdpet.commands.errors import wrong_usage

MODULES = {"check": "sdpet.lab.check", "pretrain": "sdpet.lab.pretrain", "subjects": "sdpet.lab.subjects"}
HELP = """example: sdpet lab check

  sdpet lab check      measure the lab (VAE, scorer, base model) against its gates
  sdpet lab pretrain   train the lab's weights again (takes hours)
  sdpet lab subjects   draw six subjects for a study over subjects
"""


def main(arguments: list[str]) -> int:
    """Run a module of the lab with the options that follow."""
    if not arguments:
        wrong_usage("sdpet lab", "the following arguments are required: COMMAND")
    if arguments[0] in ("-h", "--help"):
        print(HELP, end="")
        return 0
    if arguments[0] not in MODULES:
        wrong_usage("sdpet lab", f"there is no command {arguments[0]!r}; choose one of {', '.join(MODULES)}")
    module = MODULES[arguments[0]]
    if importlib.util.find_spec(module) is None:
        raise ValueError(f"this installation lacks {module}.")
    sys.argv = [f"sdpet lab {arguments[0]}", *arguments[1:]]
    runpy.run_module(module, run_name="__main__", alter_sys=False)
    return 0
