-- What a key may see and do, see domain/roles.py. Keys from before have the least role.
ALTER TABLE api_keys ADD COLUMN role TEXT NOT NULL DEFAULT 'caller';
