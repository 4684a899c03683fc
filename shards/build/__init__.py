"""From a raw data set to one folder of tars, whole or not at all.

Imports `shards.layouts` and `shards.files`.
"""
