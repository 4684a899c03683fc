"""Scoring models and maps: tables of scores, comparisons, reports.

Imports `pipelines.tracking`, `pipelines.ray_cluster` and `pipelines.config`.
"""
