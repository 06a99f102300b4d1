"""RunPod's own APIs of one endpoint, beside its OpenAI route."""
