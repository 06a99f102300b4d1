"""The places that answer requests: how they are configured, what they charge, how they are reached."""
