"""Cached answers."""
