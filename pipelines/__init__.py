"""The edge: Ray, MLflow runs, clusters."""

import os

# In each run Ray Train says so of an actor of its own, PreemptionWatcher.  It holds nothing but
# the handles of workers, which live as long as it is wanted.
NOISE = "has constructor arguments in the object store and max_restarts"

LINES_OF_WORKERS = {
    "RAY_DEDUP_LOGS_ALLOW_REGEX": f"^(?!.*{NOISE})",
    "RAY_DEDUP_LOGS_SKIP_REGEX": NOISE,
}
"""What Ray prints of its workers' lines: all but the noise.  Those that several print are no
repetition: the stacks of ranks that hang have most of theirs in common."""

# Ray reads them when it is imported.
for _name, _value in LINES_OF_WORKERS.items():
    os.environ.setdefault(_name, _value)
