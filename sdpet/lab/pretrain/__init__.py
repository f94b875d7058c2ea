"""Trains the lab from nothing: `python -m sdpet.lab.pretrain` (about an hour on 2 cores, resumable)."""
