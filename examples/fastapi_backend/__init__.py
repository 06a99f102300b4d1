"""A backend on FastAPI with RunPodVLLMService; `uvicorn examples.fastapi_backend.app:app`."""
