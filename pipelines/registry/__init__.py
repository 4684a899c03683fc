"""The registered model: versions, aliases, and what serves them.

Imports `pipelines.evaluation` and `pipelines.tracking`.
"""
