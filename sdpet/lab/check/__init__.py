"""Is the lab good enough to experiment on? `python -m sdpet.lab.check`"""
