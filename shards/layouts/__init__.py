"""Readers of raw data sets, one a file, and what they share.

Imports `shards.files`.
"""
