-- 1 where a provider reported tokens that the request cannot have used, so that they were bounded or estimated.
ALTER TABLE requests ADD COLUMN usage_implausible BIGINT;
