"""Figures, one file a family. Each function takes plain numbers and returns a matplotlib Figure."""
