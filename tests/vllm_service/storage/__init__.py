"""Keys, limits, ledger and cached answers: one suite, embedded and on real Redis and Postgres."""
