"""What the workers' seconds cost."""
