"""Ray Train around `emlnet.training.fit`: trainer, worker, reports, checkpoints, early saves.

Imports `pipelines.config`, `pipelines.ray_cluster` and `pipelines.tracking`.
"""
