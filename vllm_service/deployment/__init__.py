"""A deployment: what a model needs, which GPUs hold it, and what RunPod has to have for it."""
