"""What the sweeper does with a study: its combinations, its question, more seeds, the confirmation and the race."""
