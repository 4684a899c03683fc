"""The registered model: versions, aliases, promotion, and what serves them.

Imports `pipelines.config`, `pipelines.evaluation` and `pipelines.tracking`.
"""
