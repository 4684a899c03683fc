"""Looking at shards: verify them, count them, show them.

Imports `shards.build`, `shards.read` and `shards.files`.
"""
