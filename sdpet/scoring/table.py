"""`python -m sdpet.scoring.table`, the former name of `python -m sdpet.commands.score_order`."""

import runpy

if __name__ == "__main__":
    runpy.run_module("sdpet.commands.score_order", run_name="__main__")
