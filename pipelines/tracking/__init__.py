"""Runs: folders, MLflow records, provenance and figures.

Imports `pipelines.config` and `pipelines.ray_cluster`.
"""
