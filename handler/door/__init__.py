"""The way in over HTTP: the flags of vLLM's server that the worker's server obeys, and the check of keys."""
