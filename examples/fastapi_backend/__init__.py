"""A FastAPI backend with RunPodVLLMService: `uvicorn examples.fastapi_backend.app:app`."""
