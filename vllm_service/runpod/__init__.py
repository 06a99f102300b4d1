"""RunPod's own APIs: of one endpoint beside its OpenAI route, and REST v2."""
