"""Pictures, gaze and maps as tensors: samples, frames, augmentation, batches.

Imports nothing else of the project.
"""
