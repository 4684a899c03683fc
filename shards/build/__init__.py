"""Build a folder of tars from a raw data set, whole or not at all.

Imports `shards.layouts` and `shards.files`.
"""
