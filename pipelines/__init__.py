"""The edge: Ray, MLflow runs, clusters."""
