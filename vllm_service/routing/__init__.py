"""Which offer answers a request, in which order offers are tried, and what was learned from how it went."""
