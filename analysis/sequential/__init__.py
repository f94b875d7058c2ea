"""Races: sequential comparisons with the best, which drop designs at fixed looks and keep their error rate."""
