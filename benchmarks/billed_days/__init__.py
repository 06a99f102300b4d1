"""Days of traffic on an emulated endpoint whose clock is driven: what the ledger books, against RunPod's bill."""
