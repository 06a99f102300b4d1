"""What replicas agree on: breakers, wakes, worker targets."""
