"""Circuit breakers: one per provider and model, shared between replicas."""
