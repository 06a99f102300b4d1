"""The meter of workers' seconds, and the bill."""
