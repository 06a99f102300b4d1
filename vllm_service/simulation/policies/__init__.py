"""What decides in a simulation: the real router, and what people do without one."""
