"""Two processes that share each batch train as one process does."""

from __future__ import annotations

import os
import socket
from unittest import mock

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from emlnet.data.batches import prepare_image, prepare_targets
from emlnet.data.samples import Decoded, collate
from emlnet.losses import LossWeights
from emlnet.models.encoder import Encoder, EncoderConfig
from emlnet.training.distributed import share_gradients
from emlnet.training.fit import train_epoch
from emlnet.training.state import Plan, start, unwrap
from emlnet.training.validation import evaluate
from tests.emlnet.training.small_training import Batches

SIZE, BATCH, NUM_IMAGES, EPOCHS = (32, 48), 4, 9, 2
PLAN = Plan(
    epochs=EPOCHS,
    batch_size=BATCH,
    lr=0.01,
    optimizer="sgd",
    schedule="step",
    step_epochs=1,
    clip_norm=0,
    loss_weights=LossWeights(kl=1, cc=1, nss=1, sim=1, mse=1),
)


class FrozenStatistics(Encoder):
    """A float64 encoder whose BatchNorm stays in eval mode: its statistics are each rank's own."""

    def train(self, mode=True):
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self


def make_model():
    torch.manual_seed(0)
    config = EncoderConfig(backbone="tiny", weights="none", size=SIZE, readout_width=4)
    model = FrozenStatistics(config).double()
    # Kernels of blurs are float32, and so is the gradient of their width.
    model.head.log_sigma.requires_grad_(False)
    return model


def photographs():
    random = np.random.default_rng(0)
    return [
        Decoded(
            key=str(number),
            image=random.integers(0, 256, (*SIZE, 3), dtype=np.uint8),
            points=random.integers(0, 32, (2 + number, 2)).astype(np.int32),
            observers=np.zeros(2 + number, np.int32),
            density=random.integers(0, 256, SIZE, dtype=np.uint8),
        )
        for number in range(NUM_IMAGES)
    ]


def epoch_steps(seed, rank, world_size, batches_per_step=1):
    """A rank's share of an epoch: each batch cut in equal parts, the last one filled up."""
    samples, random = photographs(), np.random.default_rng(seed)
    order = np.resize(random.permutation(NUM_IMAGES), (-(-NUM_IMAGES // BATCH), BATCH))
    flips = random.random(order.shape) < 0.5
    weights = (np.arange(order.size) < NUM_IMAGES).reshape(order.shape).astype(np.float32)
    share = BATCH // world_size
    mine = slice(rank * share, (rank + 1) * share)
    steps = []
    for row in zip(order, flips, weights, strict=True):
        cut = (np.array_split(values[mine], batches_per_step) for values in row)
        for indices, flip, weight in zip(*cut, strict=True):
            batch = collate([samples[i] for i in indices], weight, flip)
            steps.append(((prepare_image(batch).double(),), prepare_targets(batch)))
    return steps


def train(rank, world_size, model, batches_per_step=1):
    """The model's state_dict, and each epoch's losses and scores."""
    state, history = start(model, PLAN, -(-NUM_IMAGES // BATCH)), []
    for epoch in range(EPOCHS):
        # Losses are computed in float32; in float64 only true differences are left.
        with mock.patch.object(torch.Tensor, "float", torch.Tensor.double):
            steps = epoch_steps(epoch, rank, world_size, batches_per_step)
            losses = train_epoch(state, PLAN, Batches(steps, batches_per_step=batches_per_step))
        state.end_epoch()
        history.append((losses, evaluate(model, epoch_steps(100, rank, world_size))))
    return unwrap(model).state_dict(), history


def add_gradients(state, bucket):
    """The mistake: ranks' gradients are added, not averaged."""
    work = dist.all_reduce(bucket.buffer(), async_op=True)
    return work.get_future().then(lambda done: done.value()[0])


def work(rank, port, folder):
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    averaged = share_gradients(make_model(), torch.device("cpu"))
    added = DistributedDataParallel(make_model())
    added.register_comm_hook(None, add_gradients)
    parted = share_gradients(make_model(), torch.device("cpu"), batches_per_step=2)
    answers = train(rank, 2, averaged), train(rank, 2, added), train(rank, 2, parted, 2)
    torch.save(answers, folder / f"{rank}.pt")
    dist.destroy_process_group()


def difference(weights, others):
    return max((weights[key] - others[key]).abs().max().item() for key in weights)


@pytest.fixture(scope="module")
def alone():
    """Weights and history of one process."""
    return train(0, 1, make_model())


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """Per rank, weights and history of two processes: gradients averaged, added, in two parts."""
    folder = tmp_path_factory.mktemp("ranks")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(work, (port, folder), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in (0, 1)]


def test_the_last_batch_leaves_one_rank_with_nothing_but_filling():
    assert epoch_steps(0, 0, 2)[-1][1].weight.tolist() == [1, 0]
    assert epoch_steps(0, 1, 2)[-1][1].weight.tolist() == [0, 0]


def test_two_ranks_end_with_the_weights_of_one(alone, shared):
    (weights, _), (others, _) = shared[0][0], shared[1][0]
    assert difference(weights, others) == 0
    assert difference(weights, alone[0]) < 1e-10
    assert difference(weights, make_model().state_dict()) > 1e-3


def test_two_ranks_report_the_losses_and_scores_of_one(alone, shared):
    (_, history), (_, others) = shared[0][0], shared[1][0]
    assert history == others
    assert len(history) == EPOCHS
    for (losses, scores), (expected_losses, expected_scores) in zip(history, alone[1], strict=True):
        assert losses == pytest.approx(expected_losses, rel=1e-9)
        assert scores == pytest.approx(expected_scores, rel=1e-6)


def test_ranks_that_added_their_gradients_would_be_found_out(alone, shared):
    _, (weights, _), _ = shared[0]
    assert difference(weights, alone[0]) > 1e-4


def test_gradients_of_a_share_in_parts_add_up_to_those_of_the_whole(alone, shared):
    _, _, (weights, history) = shared[0]
    assert difference(weights, alone[0]) < 1e-10
    assert history[-1][0] == pytest.approx(alone[1][-1][0], rel=1e-9)
    assert difference(train(0, 1, make_model(), batches_per_step=4)[0], alone[0]) < 1e-10
