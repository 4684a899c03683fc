"""Data: from raw folders to WebDataset shards to batches."""
