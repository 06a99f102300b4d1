"""The worker as a RunPod load-balancing endpoint: serves the API of the engine over HTTP."""
