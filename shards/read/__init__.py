"""Read a rank's batches from shards, in an order given by seed and epoch.

Imports `shards.files`.
"""
