"""RunPod's REST API, version 2: one file for each resource, and what they share in `door`."""
