"""Finetuning an encoder as EML-NET's authors describe it, in a plain script: float32, SGD, the
files read one by one, mirrored with a chance of one half, the loss a loop over the images, a host
read at every step, the learning rate x 0.1 every 5 epochs.
"""

import torch

from benchmarks.baseline.plain_loader import loader
from benchmarks.baseline.plain_loss import loss as loop_loss


def endless(batches):
    while True:
        yield from batches


def mirrored(batch):
    for number in range(len(batch["image"])):
        if torch.rand(()) < 0.5:
            for maps in batch.values():
                maps[number] = maps[number].flip(-1)
    return batch


def trainer(model, folder, batch_size, num_workers):
    """Return a function that trains so many steps and returns their losses.

    Its `schedule` counts epochs.  model: returns a map in 0..1.  folder: in SALICON's layout.
    """
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    reader = loader(folder, batch_size, num_workers)
    batches = endless(reader)

    def train(num_steps):
        model.train()
        losses = []
        for _ in range(num_steps):
            batch = mirrored(next(batches))
            prediction = model(batch["image"])
            loss, _ = loop_loss(prediction, batch["density"], (batch["fixations"] > 0).float())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return losses

    train.steps_per_epoch = len(reader)
    train.schedule = torch.optim.lr_scheduler.StepLR(optimizer, 5)
    return train
