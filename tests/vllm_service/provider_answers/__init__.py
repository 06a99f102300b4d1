"""What providers send with status 200, from one grammar, and the one verdict on each."""
