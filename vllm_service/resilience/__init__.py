"""The attempts of a request: the one driver, circuit breakers, retries, deadlines and hedging."""
