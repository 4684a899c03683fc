"""Sources of models: MLflow's registry, folders, archives, the web, the authors' checkpoints.

Imports `emlnet.inference`, `emlnet.models`, `emlnet.backbones` and the files above.
"""
