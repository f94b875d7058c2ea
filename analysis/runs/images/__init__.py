"""Scores of single images."""
