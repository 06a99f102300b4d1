"""A discrete-event simulator of what a traffic trace would have cost, replayed through the real router."""
