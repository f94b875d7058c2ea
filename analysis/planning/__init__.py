"""Before a study runs: fractions of a design, sample size, and what a dry run says."""
