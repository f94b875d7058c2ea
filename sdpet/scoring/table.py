"""The former name of `python -m sdpet.commands.score_order`: `python -m sdpet.scoring.table`."""

import runpy

if __name__ == "__main__":
    runpy.run_module("sdpet.commands.score_order", run_name="__main__")
