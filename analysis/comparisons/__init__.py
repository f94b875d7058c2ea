"""Means and their comparisons: marginal means, contrasts, post-hoc tests, corrections for multiplicity."""
