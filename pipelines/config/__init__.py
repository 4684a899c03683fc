"""Presets, options that several commands share, and the digests and names made from them.

Imports `emlnet` and `shards`.
"""
