"""What a command tunes: an encoder or a decoder, where, and how many trials of it at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from pipelines.config.identity import digest
from pipelines.config.options import num_cpus
from pipelines.ray_cluster import sizing
from pipelines.stages.frozen_encoders import (
    FrozenEncoder,
    cache_folder,
    compute_readouts,
    find_packages,
    open_encoders,
)
from pipelines.stages.run_context import NOT_IDENTITY, RunContext, weight_digests
from pipelines.tracking import run_folder
from shards.files.manifest import Manifest
from tune.decoder_trial import DecoderSubject, decoder_title, share
from tune.encoder_trial import EncoderSubject
from tune.search_config import LossWeightsCommand
from tune.space import EQUAL, short
from tune.trial import Subject, trial_compute
from tune.tuner import num_at_once


def open_folder(
    command: LossWeightsCommand, manifest: Manifest
) -> tuple[Path, list[FrozenEncoder]]:
    """The search's own folder, absolute: `--out`, or one under runs/, the same each time; and the
    encoders whose decoder is tuned, if it is one.
    """
    elsewhere = (*NOT_IDENTITY, "decoder")
    config = {k: v for k, v in asdict(command).items() if k not in elsewhere}
    config["search"] = command.search.identity
    frozen: list[FrozenEncoder] = []
    if command.decoder:
        pulled = Path("runs") / "pulled" / digest(encoders=command.decoder)[:8]
        packages = find_packages(command.decoder, command.tracking.uri, pulled.absolute())
        frozen = open_encoders(packages, manifest, Path())
        config.pop("encoder")
        files = [each.weights for each in frozen]
    else:
        files = weight_digests([command.encoder.weights])
    identity = {
        "command": "tune loss-weights",
        "data": manifest.digest,
        "config": digest(config=config),
        "weights": digest(files=files),
        "store": digest(uri=command.tracking.uri),
    }
    words = title(command, frozen)
    safe = "".join(c if c.isalnum() or c in "+-_." else "-" for c in words)[:60]
    default = Path("runs") / f"tune-{safe}-{digest(**identity)[:8]}"
    folder = run_folder.open_folder(command.tracking.out or default, identity)
    caches = cache_folder(command.readouts, folder)
    return folder, [replace(each, cache=caches / each.cache) for each in frozen]


def title(command: LossWeightsCommand, frozen: Sequence[FrozenEncoder]) -> str:
    """What is tuned, in words."""
    if not command.decoder:
        return command.encoder.backbone
    return decoder_title([each.encoder for each in frozen])


def make_subject(
    command: LossWeightsCommand, context: RunContext, frozen: Sequence[FrozenEncoder]
) -> tuple[Subject, int]:
    """What is tuned, and how many trials of it the free resources hold at once.

    Raises ValueError when they hold none, or its workers can't share a batch.
    """
    scaled = sizing.scaling_config(command.compute)
    num_workers = 1 if frozen else scaled.max_workers
    use_gpu = bool(scaled.use_gpu)
    takes = {"CPU": 1 if frozen else num_workers * command.compute.cpus}
    if use_gpu:
        takes["GPU"] = num_workers
    at_once = min(num_at_once(takes, sizing.wait_until_free(takes)), command.search.num_trials)
    num_threads = max(1, num_cpus() // (at_once * num_workers))
    if frozen:
        compute_readouts(context.data, frozen, context.compute.use_gpu)
        caches = tuple(each.cache for each in frozen)
        encoders = tuple(each.encoder for each in frozen)
        decoder = DecoderSubject(
            data=context.data[0],
            encoders=encoders,
            caches=caches,
            decoder=command.decoder_config,
            shared=share(context.data[0], encoders, caches, command.scale),
            num_threads=num_threads,
            use_gpu=use_gpu,
        )
        return decoder, at_once
    sizing.check_batch(command.plan.batch_size, command.compute)
    compute = trial_compute(command.compute, num_threads)
    encoder = EncoderSubject(
        data=context.data[0], encoder=command.encoder, compute=compute, finetune=command.finetune
    )
    epochs = command.search.warm_start_epochs
    if epochs:
        print(f"warm-up: {epochs} epoch{'s' * (epochs > 1)} with {short(EQUAL)}", flush=True)
        every = replace(encoder, compute=replace(compute, threads=command.compute.threads))
        warm = every.warm_up(command.plan, epochs, command.scale, command.seed, context.folder)
        encoder = replace(encoder, warm_start=warm)
    return encoder, at_once
