"""The service: gateway, cost router, ledger and client for your own endpoint and hosted providers."""

__version__ = "0.1.0"
