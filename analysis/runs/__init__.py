"""Runs as a tidy frame: from run folders, tables or W&B; and what each column of it is."""
