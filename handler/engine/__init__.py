"""The engine behind the worker: its protocol, vLLM embedded in this process, and a server that already runs."""
