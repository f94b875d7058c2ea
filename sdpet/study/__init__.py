"""Studies: many runs planned, claimed, shared out to processes and summed up. Nothing here imports torch."""
