"""The engine behind the worker: what it must offer, and vLLM embedded in this process offering it."""
