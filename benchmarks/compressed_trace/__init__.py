"""A compressed trace: played against a real gateway, vLLM workers and emulated hosted providers, and simulated."""
