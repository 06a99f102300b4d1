"""The policies of a simulation: the real router, and what people do without one."""
