"""The SQL databases: one protocol, one file for each driver, and the numbered changes of their schema."""
