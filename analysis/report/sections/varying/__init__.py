"""Sections on what varies: settings and subjects."""
