-- How many requests an organisation may have under way at once; NULL is no limit. Organisations from before have the default.
ALTER TABLE organisations ADD COLUMN concurrent_requests BIGINT DEFAULT 1000;
