"""Finetuning an encoder as EML-NET's authors describe it, in a plain script: float32, SGD, the
files read one by one, the loss a loop over the images, a host read at every step.
"""

import torch

from benchmarks.baseline.loader import loader
from benchmarks.baseline.loss import loss as loop_loss


def endless(batches):
    while True:
        yield from batches


def trainer(model, folder, batch_size, num_workers):
    """A function that trains so many steps and returns their losses."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    batches = endless(loader(folder, batch_size, num_workers))
    model.train()

    def train(num_steps):
        losses = []
        for _ in range(num_steps):
            batch = next(batches)
            prediction = model(batch["image"])
            loss, _ = loop_loss(prediction, batch["density"], (batch["fixations"] > 0).float())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return losses

    return train
