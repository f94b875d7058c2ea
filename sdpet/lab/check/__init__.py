"""Measure whether the lab is good enough for experiments: `python -m sdpet.lab.check`."""
