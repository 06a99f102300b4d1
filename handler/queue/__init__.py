"""The worker as a RunPod queue endpoint: takes jobs, posts their outputs and their ends."""
