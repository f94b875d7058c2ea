"""Races: sequential comparisons with the best, which drop designs at fixed looks and keep their error rate."""

from analysis.sequential.bounds import pooled_variance
from analysis.sequential.expected import Expected, World, simulate, summary, world_of
from analysis.sequential.schedule import LOOKS, critical_value

__all__ = ["LOOKS", "Expected", "World", "critical_value", "pooled_variance", "simulate", "summary", "world_of"]
