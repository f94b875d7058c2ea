"""Runs as a tidy frame: from run folders, tables or W&B."""
