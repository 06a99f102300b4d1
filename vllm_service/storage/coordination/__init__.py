"""The state that replicas share: breakers, wake leases and worker targets; in memory, or in Redis for several."""
