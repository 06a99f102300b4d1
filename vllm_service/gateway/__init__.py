"""One request through the gateway, from a caller's socket to a provider and back, with little work for each chunk."""
