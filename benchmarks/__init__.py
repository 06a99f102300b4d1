"""Measurements of the worker and the gateway; each prints one JSON object or a table."""
