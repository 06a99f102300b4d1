"""Providers, models and prices: providers.yaml and models.yaml, read and checked."""
