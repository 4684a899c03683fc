"""Looking at shards: verify them, count them, show them.

Imports `shards.build` and `shards.files`.
"""
