"""The start and the end of the process: the timeline, what makes a start shorter, the signals."""
