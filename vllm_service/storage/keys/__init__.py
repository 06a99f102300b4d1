"""The callers' API keys, and the limits of their organisations."""
