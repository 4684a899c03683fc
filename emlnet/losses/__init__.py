"""Training losses: one value per image and term, and their weighted sum.

Imports `emlnet.data` and `emlnet.metrics`.
"""
