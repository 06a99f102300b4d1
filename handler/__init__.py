"""The worker: turns RunPod jobs into requests to a vLLM that runs in this process."""
