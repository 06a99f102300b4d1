"""RunPod's HTTP APIs: the client's, the worker's, OpenAI's, and the management of endpoints."""
