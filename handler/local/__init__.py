"""What a person runs by hand: one job, the local API, the report of the configuration."""
