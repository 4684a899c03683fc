"""Networks: encoders with readouts, decoders, EML-NET, and their number formats.

Imports `emlnet.data` and `emlnet.backbones`.
"""
