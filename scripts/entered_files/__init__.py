"""Counts the files that one request, one job or one call enters: how many a reader has to open to follow it."""
