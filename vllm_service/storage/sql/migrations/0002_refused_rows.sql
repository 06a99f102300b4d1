-- Of rows_dropped, those that the database refused. /health forgets them at a restart; the ledger's summary must not.
ALTER TABLE ledger_writers ADD COLUMN rows_refused BIGINT NOT NULL DEFAULT 0;
