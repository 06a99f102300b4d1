"""Workers of own endpoints: health watched, wakes requested once, workersMin set."""
