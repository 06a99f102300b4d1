"""What a traffic trace would have cost: a discrete-event simulator that replays it through the real router."""
