"""Which place answers a request, in which order places are tried, and what was learned from how it went."""
