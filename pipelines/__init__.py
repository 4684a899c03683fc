"""The edge: Ray, MLflow runs, clusters."""

import os

# Ray reads it when it is imported.  Lines that several workers print are no repetition: the stacks
# of ranks that hang have most of theirs in common.
os.environ.setdefault("RAY_DEDUP_LOGS", "0")
