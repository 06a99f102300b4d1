"""A compressed trace, played for real against a gateway, workers with vLLM and hosted providers, and simulated."""
