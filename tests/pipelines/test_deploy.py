"""What deploy/ holds, as far as it can be judged without a cluster."""

import json
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray
import yaml
from packaging.requirements import Requirement

from pipelines.__main__ import parse
from pipelines.config.options import FullCommand

DEPLOY = Path(__file__).parents[2] / "deploy"
PROJECT = tomllib.loads((DEPLOY.parent / "pyproject.toml").read_text())["project"]
MANIFESTS = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
# What KubeRay 1.6's API reference names.
CLUSTER = {
    "authOptions",
    "autoscalerOptions",
    "enableInTreeAutoscaling",
    "headGroupSpec",
    "rayVersion",
    "workerGroupSpecs",
}
JOB = {"clusterSelector", "entrypoint", "submissionMode"}
"""Not backoffLimit, which KubeRay refuses beside a selector."""
GROUP = {"groupName", "maxReplicas", "minReplicas", "rayStartParams", "replicas", "template"}


def documents() -> list[dict[str, Any]]:
    return [doc for path in MANIFESTS for doc in yaml.safe_load_all(path.read_text())]


def only(kind: str, name: str) -> dict[str, Any]:
    (found,) = [d for d in documents() if (d["kind"], d["metadata"]["name"]) == (kind, name)]
    return found


def pods() -> list[dict[str, Any]]:
    """The pod specs of all documents."""
    cluster = only("RayCluster", "emlnet")["spec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    deployments = [d["spec"] for d in documents() if d["kind"] == "Deployment"]
    return [owner["template"]["spec"] for owner in (*groups, *deployments)]


def test_claims_services_and_secrets_that_are_named_exist() -> None:
    claims = {d["metadata"]["name"] for d in documents() if d["kind"] == "PersistentVolumeClaim"}
    services = {d["metadata"]["name"] for d in documents() if d["kind"] == "Service"}
    text = "".join(path.read_text() for path in MANIFESTS)
    for pod in pods():
        volumes = {volume["name"]: volume for volume in pod.get("volumes", ())}
        for volume in volumes.values():
            if "persistentVolumeClaim" in volume:
                assert volume["persistentVolumeClaim"]["claimName"] in claims
        for container in pod["containers"]:
            assert {mount["name"] for mount in container["volumeMounts"]} <= set(volumes)
    assert set(re.findall(r"(?:http://|@)([a-z-]+):\d+", text)) <= services
    keys = {"database", "login", "session"}
    assert set(re.findall(r"secretKeyRef: {name: mlflow, key: (\w+)}", text)) == keys
    assert set(re.findall(r"--from-literal=(\w+)=", text)) == keys


def test_pods_run_as_a_user_without_privileges_and_with_limits() -> None:
    for pod in pods():
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["securityContext"]["runAsUser"] > 0
        for container in pod["containers"]:
            assert not container["securityContext"]["allowPrivilegeEscalation"]
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert "memory" in container["resources"]["limits"]
            # KubeRay adds probes to the pods of Ray, which need /dev/shm.
            is_ray = container["name"].startswith("ray-")
            paths = {mount["mountPath"] for mount in container["volumeMounts"]}
            assert "/dev/shm" in paths if is_ray else "livenessProbe" in container
    # Ray's head scales the cluster, which needs the token of Kubernetes; nothing else does.
    assert [pod.get("automountServiceAccountToken", True) for pod in pods()].count(True) == 1


def test_mlflow_wants_a_login_and_every_pod_has_a_network_policy() -> None:
    (server,) = only("Deployment", "mlflow")["spec"]["template"]["spec"]["containers"]
    assert "--app-name=basic-auth" in server["args"]
    assert {"MLFLOW_AUTH_ADMIN_PASSWORD", "MLFLOW_FLASK_SERVER_SECRET_KEY"} <= {
        variable["name"] for variable in server["env"]
    }
    policies = [d["spec"] for d in documents() if d["kind"] == "NetworkPolicy"]
    chosen = [policy["podSelector"]["matchLabels"] for policy in policies]
    labels = [
        d["spec"]["template"]["metadata"]["labels"]
        for d in documents()
        if d["kind"] == "Deployment"
    ]
    for wanted in (*labels, {"ray.io/cluster": "emlnet"}):
        assert wanted in chosen


def test_services_and_deployments_select_pods_that_exist() -> None:
    deployments = [d["spec"] for d in documents() if d["kind"] == "Deployment"]
    for spec in deployments:
        assert spec["selector"]["matchLabels"] == spec["template"]["metadata"]["labels"]
    labels = [spec["template"]["metadata"]["labels"] for spec in deployments]
    containers = [container for pod in pods() for container in pod["containers"]]
    ports = {port["name"] for container in containers for port in container.get("ports", ())}
    for service in (d["spec"] for d in documents() if d["kind"] == "Service"):
        assert service["selector"] in labels
        assert {port["targetPort"] for port in service["ports"]} <= ports


def test_the_ray_cluster_has_kuberays_fields_and_this_ray() -> None:
    spec = only("RayCluster", "emlnet")["spec"]
    assert set(spec) == CLUSTER
    for group in spec["workerGroupSpecs"]:
        assert set(group) == GROUP
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    wanted = map(Requirement, PROJECT["optional-dependencies"]["pipeline"])
    (ray,) = [r for r in wanted if r.name == "ray"]
    assert ray.specifier.contains(spec["rayVersion"])
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


def test_a_worker_pods_grace_covers_the_draining_of_its_node() -> None:
    from ray.scripts.scripts import cli

    (group,) = only("RayCluster", "emlnet")["spec"]["workerGroupSpecs"]
    pod = group["template"]["spec"]
    command = pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][-1]
    words = shlex.split(command)
    assert words[:2] == ["ray", "drain-node"]
    known = {o for p in cli.commands["drain-node"].params for o in p.opts}
    assert {word for word in words if word.startswith("--")} <= known
    assert int(words[-1]) < pod["terminationGracePeriodSeconds"]


def test_the_job_runs_on_the_cluster_with_a_command_that_parses() -> None:
    spec = only("RayJob", "emlnet-full")["spec"]
    assert set(spec) == JOB
    assert only("RayCluster", spec["clusterSelector"]["ray.io/cluster"])
    words = shlex.split(spec["entrypoint"])
    assert words[:3] == ["python", "-m", "pipelines"]
    command = parse(words[3:])
    assert isinstance(command, FullCommand)
    (group,) = only("RayCluster", "emlnet")["spec"]["workerGroupSpecs"]
    assert command.compute.worker_range[1] <= group["maxReplicas"]
    for path in (*command.data, command.tracking.out):
        assert str(path).startswith("/mnt/emlnet/")


def test_the_mlflow_server_is_started_with_flags_that_it_has() -> None:
    from mlflow.cli import cli

    (container,) = only("Deployment", "mlflow")["spec"]["template"]["spec"]["containers"]
    assert container["command"] == ["mlflow", "server"]
    server = cli.commands["server"]
    known = {option for parameter in server.params for option in parameter.opts}
    assert {argument.partition("=")[0] for argument in container["args"]} <= known
    variables = {p.envvar for p in server.params if p.envvar}
    assert "MLFLOW_BACKEND_STORE_URI" in variables


def test_the_image_is_built_from_files_that_exist_and_with_extras_that_exist() -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    for line in re.findall(r"^COPY (.+)$", text, re.M):
        *sources, _ = line.split()
        for source in sources:
            assert (DEPLOY.parent / source).exists(), source
    (extras,) = re.findall(r'"\.\[([\w,]+)\]"', text)
    assert set(extras.split(",")) <= set(PROJECT["optional-dependencies"])
    (python,) = re.findall(r"^ARG PYTHON=python:(\d+\.\d+)", text, re.M)
    assert Requirement(f"python{PROJECT['requires-python']}").specifier.contains(python)


def test_ray_up_takes_the_cluster_file() -> None:
    config = yaml.safe_load((DEPLOY / "cluster.yaml").read_text())
    schema = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())
    jsonschema.validate(config, schema)
    assert config["head_node_type"] in config["available_node_types"]


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_each_document_names_its_kind_and_version(path: Path) -> None:
    for document in yaml.safe_load_all(path.read_text()):
        assert {"apiVersion", "kind", "metadata"} <= set(document)
