"""Measurements of the worker, the gateway, the client and the router; each prints a table or JSON."""
