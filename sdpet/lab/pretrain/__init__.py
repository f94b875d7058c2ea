"""Train the lab from scratch: `python -m sdpet.lab.pretrain` (about an hour on 2 cores, resumable)."""
