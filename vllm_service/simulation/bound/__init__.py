"""A lower bound on the cost of any policy that keeps the floor."""
