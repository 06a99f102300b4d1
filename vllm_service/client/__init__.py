"""What a backend imports: RunPodVLLMService, LLMRouter and their results. `vllm_service` re-exports it lazily."""
