"""The ledger: one row for every request, its columns, writing, reading, export and retention."""
