"""Callers' keys."""
