"""Readers of raw data sets, one per file, and what they share.

Imports `shards.files`.
"""
