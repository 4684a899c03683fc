"""Where models come from: MLflow's registry, folders, the web, the authors' checkpoints.

Imports `emlnet.inference` and what it imports.
"""
