-- The parts of a request's cost at an endpoint of one's own, and what its cost rests on: expected, booked or billed.
-- NULL where a row has no parts, or is from before. See docs/accounting.md.
ALTER TABLE requests ADD COLUMN execution_picousd BIGINT;
ALTER TABLE requests ADD COLUMN cold_start_picousd BIGINT;
ALTER TABLE requests ADD COLUMN idle_picousd BIGINT;
ALTER TABLE requests ADD COLUMN cost_basis TEXT;
