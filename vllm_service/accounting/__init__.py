"""Worker-seconds booked to requests, and the ledger reconciled with the bill. Pure."""
