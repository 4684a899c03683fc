"""Using a trained model: the packaged folder, its card, predictions, pictures in folders, ONNX.

Imports `emlnet.data`, `emlnet.metrics`, `emlnet.models` and `emlnet.backbones`.
"""
