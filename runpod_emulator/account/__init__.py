"""A RunPod account's state, without HTTP: its endpoints with their workers, and what they are made from."""
