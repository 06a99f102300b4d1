"""HTTP/1.1 on asyncio: the server's side for callers and the client's side for providers, without any LLM logic."""
