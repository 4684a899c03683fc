"""Verify, count and show shards.

Imports `shards.build`, `shards.read` and `shards.files`.
"""
