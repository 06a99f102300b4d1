"""What is measured and logged of requests."""
