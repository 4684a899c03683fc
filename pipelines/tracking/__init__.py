"""Runs: their folders, their MLflow records, where they come from, their figures.

Imports `pipelines.config` and `pipelines.ray_cluster`.
"""
