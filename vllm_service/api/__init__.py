"""What the gateway serves over HTTP, one file per concern; the chat path is raw ASGI, the rest is FastAPI."""
