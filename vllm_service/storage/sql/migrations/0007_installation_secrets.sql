-- Random secrets of this installation, by what they are for. They are made once, and no page or command shows them.
CREATE TABLE installation_secrets (name TEXT PRIMARY KEY, secret TEXT NOT NULL);
