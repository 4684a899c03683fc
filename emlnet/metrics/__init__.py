"""Saliency metrics under two rule books, their baselines, and the calibration of densities.

Imports `emlnet.data` only.
"""
