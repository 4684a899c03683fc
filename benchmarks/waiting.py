"""Training in Ray workers whose epochs wait until a benchmark lets them go."""

import os
import threading
import time
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import psutil

from benchmarks.step import endless
from emlnet.models.encoder import EncoderConfig
from emlnet.training.state import Plan
from pipelines.ray_train import trainer
from pipelines.stages.encoder_stage import EncoderJob, ShardSource


@dataclass(frozen=True, kw_only=True)
class WaitingJob(EncoderJob):
    """Epochs of a few steps: each waits at a pipe `go-<epoch>-<rank>`, and leaves its seconds in
    `done-<epoch>-<rank>`.
    """

    folder: Path
    num_steps: int
    waits: bool = True

    def build(self):
        import timm  # noqa: F401  # As all backbones but the tiny one do, or torchvision alike.

        self.stamp("process", psutil.Process().create_time())
        self.stamp("build", time.time())
        return super().build()

    def source(self, rank, world_size, device):
        return WaitingSource(self, rank, world_size, device)

    def stamp(self, name, value):
        (self.folder / f"{name}.stamp").write_text(repr(value))


class WaitingSource(ShardSource):
    def __init__(self, job, rank, world_size, device):
        super().__init__(job, rank, world_size, device)
        self.job, self.rank = job, rank
        self.batches = endless(super())
        self.steps_per_epoch = job.num_steps

    def evaluate(self, model):
        return dict.fromkeys(("kl", "nss", "cc", "sim", "auc_judd"), 0.0)

    def train(self, epoch, start_step):
        job = self.job
        if job.waits:
            pipe = job.folder / f"go-{epoch}-{self.rank}"
            os.mkfifo(pipe)
            pipe.read_bytes()
        began = time.perf_counter()
        yield from islice(self.batches, job.num_steps)
        seconds = time.perf_counter() - began
        job.stamp("steps", time.time())
        temporary = job.folder / f"{epoch}-{self.rank}.tmp"
        temporary.write_text(repr(seconds))
        temporary.rename(job.folder / f"done-{epoch}-{self.rank}")


def make_job(data, folder, num_steps, epochs, backbone, size, batch_size, waits=True):
    return WaitingJob(
        data=(Path(data),),
        encoder=EncoderConfig(backbone=backbone, weights="none", size=tuple(size)),
        plan=Plan(epochs=epochs, batch_size=batch_size),
        seed=0,
        folder=Path(folder),
        num_steps=num_steps,
        waits=waits,
    )


class RaySide:
    """Steps in Ray workers, a repetition when it is called; the last epoch is left for the end."""

    def __init__(self, job, compute, storage):
        self.job, self.num_workers, self.epoch = job, compute.num_workers, 0
        job.folder.mkdir(parents=True)
        self.thread = threading.Thread(
            target=trainer.train, args=(job, storage, compute), daemon=True
        )
        self.thread.start()

    def __call__(self):
        self.let_go()
        paths = self.wait("done")
        self.epoch += 1
        self.wait("go")
        return max(float(path.read_text()) for path in paths)

    def let_go(self):
        for pipe in self.wait("go"):
            pipe.write_bytes(b"")

    def wait(self, what):
        """The files `what` of all workers for this epoch, when they are there."""
        names = [f"{what}-{self.epoch}-{rank}" for rank in range(self.num_workers)]
        paths = [self.job.folder / name for name in names]
        while not all(path.exists() for path in paths):
            if not self.thread.is_alive():
                raise RuntimeError("the Ray workers ended early")
            time.sleep(0.05)
        return paths

    def close(self):
        self.let_go()
        self.thread.join()
