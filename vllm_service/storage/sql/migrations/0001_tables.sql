-- The tables as they were before migrations were numbered. A database that has them already keeps them unchanged;
-- hence IF NOT EXISTS, which no later migration needs.

-- One row for each migration that was applied; the highest is the version of the database.
CREATE TABLE IF NOT EXISTS schema_versions (
    version BIGINT PRIMARY KEY, name TEXT NOT NULL, program TEXT NOT NULL, applied_at_us BIGINT NOT NULL);

-- One row per request. `writer` is the process that wrote it, and `sequence` that process's own count. By them a batch
-- that is sent again after a broken connection is recognised. The request's id cannot serve: callers may choose it.
CREATE TABLE IF NOT EXISTS requests (
    id {id},
    writer BIGINT NOT NULL, sequence BIGINT NOT NULL, request_id TEXT NOT NULL, started_at_us BIGINT NOT NULL,
    key_id TEXT NOT NULL, organisation TEXT NOT NULL, operation TEXT NOT NULL, model TEXT NOT NULL,
    outcome TEXT NOT NULL, status BIGINT NOT NULL, provider TEXT, upstream_model TEXT,
    prompt_tokens BIGINT, completion_tokens BIGINT, cached_tokens BIGINT, reasoning_tokens BIGINT,
    usage_estimated BIGINT, cost_picousd BIGINT, baseline_picousd BIGINT, stream BIGINT NOT NULL,
    queue_ms DOUBLE PRECISION, ttft_ms DOUBLE PRECISION, total_ms DOUBLE PRECISION, attempts BIGINT NOT NULL,
    error_code TEXT, route_reason TEXT,
    UNIQUE (writer, sequence));
CREATE INDEX IF NOT EXISTS requests_by_time ON requests (started_at_us);

CREATE TABLE IF NOT EXISTS api_keys (
    id TEXT PRIMARY KEY, digest TEXT NOT NULL, organisation TEXT NOT NULL, tier TEXT NOT NULL,
    annotate BIGINT NOT NULL, strategy TEXT, note TEXT, created_at_us BIGINT NOT NULL, revoked_at_us BIGINT);

CREATE TABLE IF NOT EXISTS organisations (
    organisation TEXT PRIMARY KEY, tokens_per_day BIGINT, requests_per_day BIGINT,
    tokens_per_month BIGINT, picousd_per_month BIGINT);

-- An organisation's use, counted by gateways without Redis. period: "day" or "month"; number: as in domain/quotas.py.
CREATE TABLE IF NOT EXISTS quota_use (
    organisation TEXT NOT NULL, period TEXT NOT NULL, number BIGINT NOT NULL,
    requests BIGINT NOT NULL, tokens BIGINT NOT NULL, picousd BIGINT NOT NULL,
    PRIMARY KEY (organisation, period, number));

-- The processes that write the ledger. heard_at_us: the last heartbeat. A writer that was not closed and sends no
-- heartbeat any more was killed, and has lost what it had not written.
CREATE TABLE IF NOT EXISTS ledger_writers (
    writer BIGINT PRIMARY KEY, host TEXT NOT NULL, pid BIGINT NOT NULL, started_at_us BIGINT NOT NULL,
    heard_at_us BIGINT NOT NULL, rows_written BIGINT NOT NULL, rows_dropped BIGINT NOT NULL,
    closed_at_us BIGINT, lost_at_us BIGINT);
