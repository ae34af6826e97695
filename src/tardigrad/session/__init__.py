"""Sessions: what a user's own training script holds in a worker."""
