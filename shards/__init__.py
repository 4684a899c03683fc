"""The data plane: raw folders to WebDataset shards to batches."""
