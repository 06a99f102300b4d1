"""HTTP/1.1 on asyncio: the server's side and the client's side. Knows nothing of models."""
