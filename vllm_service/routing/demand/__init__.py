"""How many workers of an own endpoint are worth their price."""
