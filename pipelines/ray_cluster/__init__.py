"""A Ray cluster: joining it, its size, its nodes, tasks on it, and the signal to stop.

Imports `pipelines.config`.
"""
