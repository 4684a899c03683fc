"""Checkpoints in a bucket, and a bucket that refuses them."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import boto3
import pytest
import ray

from pipelines.config.options import Compute
from pipelines.ray_cluster import connection
from pipelines.ray_train import trainer
from tests.pipelines.cluster.faults import PAIR, difference, make_job, steps, training, wait_until
from tests.shards.s3 import Server


@pytest.fixture
def bucket(undisturbed: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """An empty bucket `runs`, to which this process and Ray's have the key."""
    server = Server()
    server.thread.start()
    settings = {
        "AWS_ENDPOINT_URL": server.url,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    boto3.client("s3").create_bucket(Bucket="runs")
    ray.shutdown()
    connection.connect(Compute())
    yield server
    ray.shutdown()
    server.server.shutdown()


def test_checkpoints_in_a_bucket_survive_its_refusals_and_training_ends_the_same(
    bucket: Server, data: Path, tmp_path: Path, undisturbed: dict[str, Any]
) -> None:
    compute = replace(PAIR, storage="s3://runs/checkpoints")
    folder = tmp_path / "run" / "stage"
    job = make_job(data, folder, pause=0.5)
    with training(job, compute) as content:
        wait_until(lambda: len(steps(job)) >= 8, "no eighth step")
        bucket.fail(1000, "PUT", "checkpoint_")
        with pytest.raises(ValueError, match=r"refuses a checkpoint .*the last good one is kept"):
            content.result()
    bucket.open()
    job.gate.touch()
    found = boto3.client("s3").list_objects_v2(Bucket="runs")["Contents"]
    assert any(entry["Key"].endswith("state.pt") for entry in found)
    begun = len(steps(job))
    resumed = trainer.train(job, folder / "training", compute)
    assert difference(resumed, undisturbed) == []
    assert len(steps(job)) - begun <= 18 - 4
    assert not list((folder / "training").glob("checkpoint_*"))
