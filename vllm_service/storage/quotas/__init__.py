"""Limits: windows, quotas, reservations."""
