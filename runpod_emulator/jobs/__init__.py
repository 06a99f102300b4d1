"""Jobs: their states, the queue that holds them, and the webhooks that report their ends."""
