"""Photos to shards to the training stream."""
