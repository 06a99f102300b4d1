"""RunPodVLLMService: one own endpoint, through its queue and its OpenAI route."""
