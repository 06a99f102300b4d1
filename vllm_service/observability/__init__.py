"""Measurements, metrics, spans and the access log of requests."""
