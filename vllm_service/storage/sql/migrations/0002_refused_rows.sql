-- Rows that the database would not take, as part of rows_dropped: /health forgets them at a restart, the bill does not.
ALTER TABLE ledger_writers ADD COLUMN rows_refused BIGINT NOT NULL DEFAULT 0;
