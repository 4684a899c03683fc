"""The Ray cluster: connection, sizing, checks of the nodes, tasks and the stop signal.

Imports `pipelines.config`.
"""
