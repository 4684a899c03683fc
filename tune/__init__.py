"""The search over loss weights, with Ray Tune and Optuna.

May import all other rooms; none of them imports it.
"""
