"""The command line: the verbs, how they are parsed, and what they need."""
