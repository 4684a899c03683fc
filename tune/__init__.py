"""Search over loss weights."""
