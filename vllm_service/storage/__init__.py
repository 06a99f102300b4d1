"""Keys, quotas, ledger and cached answers: embedded by default, shared through Redis and Postgres by URL."""
