-- The parts of a request's cost at an endpoint of one's own, and what its cost rests on: expected, booked or billed.
-- NULL where a row has no parts, or is from before. See docs/accounting.md.
ALTER TABLE requests ADD COLUMN execution_picousd BIGINT;
ALTER TABLE requests ADD COLUMN cold_start_picousd BIGINT;
ALTER TABLE requests ADD COLUMN idle_picousd BIGINT;
ALTER TABLE requests ADD COLUMN cost_basis TEXT;
-- Every request of this writer that began before has ended, and its row is in the ledger.
ALTER TABLE ledger_writers ADD COLUMN complete_until_us BIGINT;
-- Finds the rows that wait to be booked, which are few beside the others.
CREATE INDEX requests_expected ON requests (provider, started_at_us) WHERE cost_basis = 'expected';

-- One row for each worker's time at an endpoint from its start to its stop, as seen. Times are microseconds since 1970,
-- unknown ones NULL. Two columns are JSON. `running_spans`: when it was seen at work, as pairs, as far as that is not
-- booked yet. `keepers`: the requests that pay while nothing runs, as pairs of row id and begin; NULL: not known yet.
CREATE TABLE worker_lives (
    life_id TEXT PRIMARY KEY,
    provider TEXT NOT NULL, endpoint_id TEXT NOT NULL, worker_id TEXT NOT NULL, started_at_us BIGINT NOT NULL,
    known_by TEXT NOT NULL, last_seen_us BIGINT NOT NULL, gpu_type TEXT, gpu_count BIGINT, data_center TEXT,
    picousd_per_microsecond BIGINT, ready_at_us BIGINT, stopped_at_us BIGINT, uncertain_us BIGINT NOT NULL,
    running_spans TEXT NOT NULL,
    booked_until_us BIGINT NOT NULL, booked_picousd BIGINT NOT NULL, keepers TEXT, is_settled BIGINT NOT NULL);
CREATE INDEX worker_lives_by_time ON worker_lives (provider, started_at_us);
CREATE INDEX worker_lives_unsettled ON worker_lives (provider) WHERE is_settled = 0;

-- What the worker seconds of each UTC day (days since 1970) were booked as. earlier_picousd: the part of the first three
-- that requests pay which began on a day before. nobody_picousd: no request caused it.
CREATE TABLE booked_days (
    provider TEXT NOT NULL, endpoint_id TEXT NOT NULL, day BIGINT NOT NULL, life_us BIGINT NOT NULL,
    execution_picousd BIGINT NOT NULL, cold_start_picousd BIGINT NOT NULL, idle_picousd BIGINT NOT NULL,
    earlier_picousd BIGINT NOT NULL, nobody_picousd BIGINT NOT NULL, PRIMARY KEY (provider, endpoint_id, day));

-- Work that one process does at a time. `beat` grows while its holder lives, `term` with each new holder.
CREATE TABLE leases (name TEXT PRIMARY KEY, holder TEXT NOT NULL, term BIGINT NOT NULL, beat BIGINT NOT NULL);
