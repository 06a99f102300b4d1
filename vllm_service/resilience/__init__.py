"""What every attempt of a request passes: the one driver, circuit breakers, retries, deadlines and hedging."""
