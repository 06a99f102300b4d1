-- What each provider billed for each UTC day (days since 1970), by part, in pico-dollars; NULL: the bill does not say.
-- compute_picousd is what was billed for workers' seconds. From seen_picousd on: what of the day was booked, and what the
-- compute amount is for; NULL until it was applied to the ledger's rows. See docs/accounting.md.
CREATE TABLE billed_days (
    provider TEXT NOT NULL, day BIGINT NOT NULL,
    gpu_picousd BIGINT, cpu_picousd BIGINT, disk_picousd BIGINT, fee_picousd BIGINT, volume_picousd BIGINT,
    compute_picousd BIGINT, beyond_parts_picousd BIGINT,
    seen_picousd BIGINT, requests_picousd BIGINT, earlier_picousd BIGINT, nobody_picousd BIGINT,
    unexplained_picousd BIGINT,
    fetched_at_us BIGINT NOT NULL, applied_at_us BIGINT, PRIMARY KEY (provider, day));
