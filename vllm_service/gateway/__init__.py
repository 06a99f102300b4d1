"""The hot path: from a caller's socket to a provider and back, as little work per request and per chunk as can be."""
