"""LLMRouter: the cost router in the application's own process."""
