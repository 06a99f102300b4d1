"""What belongs to a start and an end of the process: its settings, its timeline, what makes it shorter, signals."""
