"""Presets, and the dataclasses that several commands share.

Imports `emlnet` and `shards`.
"""
