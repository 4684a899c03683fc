"""The baselines are right, else a ratio to them means nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from benchmarks import loss as loss_benchmark
from benchmarks.baseline import plain_loss
from benchmarks.baseline.plain_loader import Folder
from benchmarks.baseline.plain_training import trainer
from emlnet.data.batches import prepare_image, prepare_targets
from emlnet.data.samples import collate
from emlnet.models.encoder import Encoder, EncoderConfig
from shards.build.writer import build
from shards.read.reader import ShardReader
from shards.synthetic import write_sample

GOLDEN = Path(__file__).parents[1] / "data" / "golden.npz"


def test_the_loop_over_images_has_the_authors_losses_and_gradient():
    with np.load(GOLDEN) as arrays:
        golden = {name: torch.from_numpy(arrays[name]) for name in arrays}
    prediction = golden["prediction"].clone().requires_grad_()
    total, terms = plain_loss.loss(prediction, golden["density"], golden["fixation"])
    total.backward()
    for name, values in terms.items():
        torch.testing.assert_close(values.double(), golden[f"loss_{name}"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(total.double(), golden["loss_total"], rtol=1e-5, atol=1e-5)
    scale = golden["loss_gradient"].abs().max()
    torch.testing.assert_close(
        prediction.grad / scale, golden["loss_gradient"] / scale, rtol=1e-4, atol=1e-6
    )


def test_the_sides_of_the_loss_benchmark_compute_one_loss():
    ours = loss_benchmark.ours(2, "eml", "reference")()
    theirs = loss_benchmark.baseline(2)()
    assert abs(ours["loss"] - theirs["loss"]) < 1e-5
    mine, other = (torch.tensor(side["gradient"]) for side in (ours, theirs))
    torch.testing.assert_close(
        mine / other.abs().max(), other / other.abs().max(), rtol=0, atol=1e-5
    )


def test_the_loader_of_the_plain_script_reads_what_the_shards_hold(tmp_path):
    write_sample(tmp_path / "raw", num_images=4, progress=False)
    build(tmp_path / "raw", tmp_path / "shards", progress=False)
    reader = ShardReader(tmp_path / "shards", "train")
    theirs = Folder(tmp_path / "raw")
    assert len(theirs) == len(reader)
    by_name = {entry.key.split("/")[1]: place for place, entry in enumerate(reader.entries)}
    for name, plain in zip(theirs.names, theirs, strict=True):
        samples = [reader.decoded(by_name[name])]
        batch = collate(samples, np.ones(1, np.float32), np.zeros(1, bool))
        targets = prepare_targets(batch)
        torch.testing.assert_close(prepare_image(batch)[0], plain["image"])
        torch.testing.assert_close(targets.density[0], plain["density"])
        assert torch.equal(targets.fixation_map()[0], plain["fixations"])


def test_a_plain_script_trains(tmp_path):
    write_sample(tmp_path / "raw", num_images=5, progress=False)
    torch.manual_seed(0)
    config = EncoderConfig(backbone="tiny", readout="eml", size=(480, 640), weights="none")
    losses = trainer(Encoder(config), tmp_path / "raw", batch_size=2, num_workers=0)(2)
    assert len(losses) == 2
    assert losses[0] != losses[1]
