-- Labels of a request: a JSON object of texts by name, NULL where it has none. See gateway/labels.py for its bounds.
ALTER TABLE requests ADD COLUMN labels TEXT;
