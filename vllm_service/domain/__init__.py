"""Pure values and arithmetic: money, usage, prices, keys, what a request is and what is recorded of it."""
