"""One good organisation beside each attacker in turn, at the real gateway: who is hurt by whom, and how much."""
