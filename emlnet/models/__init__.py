"""The networks: encoders with readouts, decoders, the whole EML-NET, and how they compute.

Imports `emlnet.data` and `emlnet.backbones`.
"""
