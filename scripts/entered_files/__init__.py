"""Counts the files that one request, one job or one call enters: how far a reader has to walk to follow it."""
