"""The registered model: versions, aliases, promotion and serving.

Imports `pipelines.config`, `pipelines.evaluation` and `pipelines.tracking`.
"""
