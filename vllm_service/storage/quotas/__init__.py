"""Limits: rate windows, quotas of days and months, reservations; in memory or shared through Redis."""
