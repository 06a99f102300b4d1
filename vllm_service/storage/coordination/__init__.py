"""What replicas agree on: breakers, wake leases and worker targets; alone in memory, together through Redis."""
