"""Providers, models and prices: what providers.yaml and models.yaml say."""
