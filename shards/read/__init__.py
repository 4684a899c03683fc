"""From shards to a rank's batches, in an order that is a function of seed and epoch.

Imports `shards.files`.
"""
