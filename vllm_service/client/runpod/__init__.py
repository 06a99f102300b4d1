"""RunPodVLLMService: one own endpoint, by its queue and its OpenAI route."""
