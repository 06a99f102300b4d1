"""Runs by hand, on a laptop: one job, the local API, the report of the configuration."""
