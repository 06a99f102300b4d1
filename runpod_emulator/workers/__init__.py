"""Worker processes, and how many of them there should be."""
