"""The training loop: `fit`, its state, validation, checkpoints and sums over ranks.

Imports `emlnet.data`, `emlnet.losses`, `emlnet.metrics`, `emlnet.models` and `emlnet.backbones`.
"""
