"""Saliency metrics by two rule books, baselines, and what is said of their values.

Imports `emlnet.data`.
"""
