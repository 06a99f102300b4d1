"""How attempts go: one driver, breakers, retries, deadlines, hedging. It knows no server and no client."""
