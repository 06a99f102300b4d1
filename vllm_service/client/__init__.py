"""The client for backends: RunPodVLLMService, LLMRouter and their results. `vllm_service` re-exports them lazily."""
