"""Pictures, gaze and maps as tensors: samples, crops, augmentation, batches, targets.

Imports no other folder.
"""
