"""The search over loss weights, with Ray Tune and Optuna.

May import all other rooms; none of them imports it.

Each trial has a record file, from which a search resumes.  Ray's `Tuner.restore` would repeat the
trials that ended since it last wrote its state, and lose all trials if a kill cuts that file short.
"""
