"""What is common to the SQL databases: the changes of their schema, numbered."""
