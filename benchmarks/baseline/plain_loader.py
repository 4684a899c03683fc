"""The usual loader of a saliency data set: a file each for picture, map and gaze, float32 tensors.

Written as such loaders are: PIL decodes picture and map, scipy the .mat, and a DataLoader collates
what `__getitem__` returns.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import scipy.io
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset


class Folder(Dataset[dict[str, Tensor]]):
    """SALICON's layout: images/train/x.jpg, maps/train/x.png, fixations/train/x.mat."""

    def __init__(self, root: Path, split: str = "train") -> None:
        self.root, self.split = root, split
        self.names = sorted(path.stem for path in (root / "images" / split).glob("*.jpg"))

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        name = self.names[index]
        picture = Image.open(self.root / "images" / self.split / f"{name}.jpg").convert("RGB")
        image = np.asarray(picture, np.float32) / 255
        density_picture = Image.open(self.root / "maps" / self.split / f"{name}.png").convert("L")
        density = np.asarray(density_picture, np.float32) / 255
        density = density / density.sum()
        gaze = scipy.io.loadmat(self.root / "fixations" / self.split / f"{name}.mat")["gaze"]
        fixations = np.zeros(density.shape, np.float32)
        for observer in gaze["fixations"].ravel():
            if observer.ndim == 2 and observer.shape[1] == 2:
                for x, y in observer.astype(int):
                    fixations[y - 1, x - 1] += 1
        return {
            "image": torch.from_numpy(image.transpose(2, 0, 1)).contiguous(),
            "density": torch.from_numpy(density)[None],
            "fixations": torch.from_numpy(fixations)[None],
        }


def loader(root: Path, batch_size: int = 8, num_workers: int = 2) -> DataLoader[dict[str, Tensor]]:
    """Shuffled batches of float32 tensors."""
    return DataLoader(
        Folder(root),
        batch_size=batch_size,
        shuffle=True,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
    )
