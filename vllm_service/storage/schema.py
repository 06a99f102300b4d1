"""The tables, for SQLite and Postgres alike; `{id}` is each one's own growing row id."""

from __future__ import annotations

from vllm_service.storage.database import Column, Table

# One row per request. `writer` and `sequence` are the process that wrote it and its own count: a batch that is sent
# again after a broken connection is known by them. The request's id cannot serve: callers may choose it.
REQUESTS = Table(
    "requests",
    (
        Column("writer", "BIGINT", required=True),
        Column("sequence", "BIGINT", required=True),
        Column("request_id", "TEXT", required=True),
        Column("started_at_us", "BIGINT", required=True),
        Column("key_id", "TEXT", required=True),
        Column("organisation", "TEXT", required=True),
        Column("operation", "TEXT", required=True),
        Column("model", "TEXT", required=True),
        Column("outcome", "TEXT", required=True),
        Column("status", "BIGINT", required=True),
        Column("provider", "TEXT"),
        Column("upstream_model", "TEXT"),
        Column("prompt_tokens", "BIGINT"),
        Column("completion_tokens", "BIGINT"),
        Column("cached_tokens", "BIGINT"),
        Column("reasoning_tokens", "BIGINT"),
        Column("usage_estimated", "BIGINT"),
        Column("cost_picousd", "BIGINT"),
        Column("baseline_picousd", "BIGINT"),
        Column("stream", "BIGINT", required=True),
        Column("queue_ms", "DOUBLE PRECISION"),
        Column("ttft_ms", "DOUBLE PRECISION"),
        Column("total_ms", "DOUBLE PRECISION"),
        Column("attempts", "BIGINT", required=True),
        Column("error_code", "TEXT"),
        Column("route_reason", "TEXT"),
    ),
    unique=("writer", "sequence"),
)

_KEYS = """CREATE TABLE IF NOT EXISTS api_keys (
    id TEXT PRIMARY KEY, digest TEXT NOT NULL, organisation TEXT NOT NULL, tier TEXT NOT NULL,
    annotate BIGINT NOT NULL, strategy TEXT, note TEXT, created_at_us BIGINT NOT NULL, revoked_at_us BIGINT)"""

_ORGANISATIONS = """CREATE TABLE IF NOT EXISTS organisations (
    organisation TEXT PRIMARY KEY, tokens_per_day BIGINT, requests_per_day BIGINT,
    tokens_per_month BIGINT, picousd_per_month BIGINT)"""

# What the limits of a process without Redis have counted. period: "day" or "month"; number: as in domain/quotas.py.
_QUOTA_USE = """CREATE TABLE IF NOT EXISTS quota_use (
    organisation TEXT NOT NULL, period TEXT NOT NULL, number BIGINT NOT NULL,
    requests BIGINT NOT NULL, tokens BIGINT NOT NULL, picousd BIGINT NOT NULL,
    PRIMARY KEY (organisation, period, number))"""

# Who writes the ledger. A writer that is neither closed nor heard of any more has lost what it had not written.
_WRITERS = """CREATE TABLE IF NOT EXISTS ledger_writers (
    writer BIGINT PRIMARY KEY, host TEXT NOT NULL, pid BIGINT NOT NULL, started_at_us BIGINT NOT NULL,
    heard_at_us BIGINT NOT NULL, rows_written BIGINT NOT NULL, rows_dropped BIGINT NOT NULL,
    closed_at_us BIGINT, lost_at_us BIGINT)"""


def _appended(table: Table) -> tuple[str, ...]:
    columns = ", ".join(f"{column.name} {column.type}{' NOT NULL' * column.required}" for column in table.columns)
    return (
        f"CREATE TABLE IF NOT EXISTS {table.name} (id {{id}}, {columns}, UNIQUE ({', '.join(table.unique)}))",
        f"CREATE INDEX IF NOT EXISTS {table.name}_by_time ON {table.name} (started_at_us)",
    )


SCHEMA = (*_appended(REQUESTS), _KEYS, _ORGANISATIONS, _QUOTA_USE, _WRITERS)
