"""Settings of runs as columns of factors."""
