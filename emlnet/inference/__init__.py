"""Using a trained model: its packaged folder and card, predictions of files, export to ONNX.

Imports `emlnet.data`, `emlnet.backbones`, `emlnet.models`, `emlnet.metrics` and the files above.
"""
