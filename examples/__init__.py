"""Programs to copy from: a FastAPI backend, AsyncOpenAI alone, LangChain and Node with the gateway."""
