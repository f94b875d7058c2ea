"""Orientation beside the tests: agreement of scores, Pareto fronts, importance by random forest."""
