"""KubeRay manifests have the fields that the operator needs, and agree with the rest of infra/.

The manifests are not applied to a cluster.
"""

from __future__ import annotations

import shlex
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.infra.conftest import check_command, document, documents, pinned

KINDS = {
    "raycluster": ("RayCluster", None),
    "rayjob": ("RayJob", "rayClusterSpec"),
    "rayservice": ("RayService", "rayClusterConfig"),
}


def cluster(name: str) -> dict[str, Any]:
    """The cluster's specification in a manifest."""
    spec: dict[str, Any] = document(f"kuberay/{name}.yaml")["spec"]
    key = KINDS[name][1]
    return spec[key] if key else spec


def groups(name: str) -> list[dict[str, Any]]:
    spec = cluster(name)
    return [spec["headGroupSpec"], *spec["workerGroupSpecs"]]


@pytest.mark.parametrize("name", KINDS)
def test_manifest_is_a_cluster_with_token_authentication(name: str) -> None:
    data = document(f"kuberay/{name}.yaml")
    assert (data["apiVersion"], data["kind"]) == ("ray.io/v1", KINDS[name][0])
    assert data["metadata"]["name"]
    spec = cluster(name)
    assert spec["authOptions"] == {"mode": "token"}
    # The operator needs a version for tokens; jobs fail if it is not the image's version.
    assert spec["rayVersion"] == pinned("ray")
    for group in spec["workerGroupSpecs"]:
        assert group["groupName"]
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    for group in groups(name):
        assert isinstance(group["rayStartParams"], dict)
        assert all(isinstance(v, str) for v in group["rayStartParams"].values())


@pytest.mark.parametrize("name", KINDS)
def test_pods_share_the_home_and_run_as_a_user(name: str) -> None:
    claim = document("kuberay/storage.yaml")
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    for group in groups(name):
        pod = group["template"]["spec"]
        assert (
            pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] == 1000
        )
        (container,) = pod["containers"]
        assert container["image"] == "style-factory:latest"
        volumes = {v["name"]: v for v in pod["volumes"]}
        mounts = {m["mountPath"]: m["name"] for m in container["volumeMounts"]}
        assert set(mounts.values()) == set(volumes)
        environment = {e["name"]: e["value"] for e in container["env"]}
        home = volumes[mounts[environment["STYLE_FACTORY_HOME"]]]
        assert home["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
        assert {"cpu", "memory"} <= set(container["resources"]["limits"])


@pytest.mark.parametrize("name", KINDS)
def test_tracking_uri_names_the_mlflow_service(name: str) -> None:
    services = {
        d["metadata"]["name"]: [p["port"] for p in d["spec"]["ports"]]
        for d in documents("mlflow/kubernetes.yaml")
        if d["kind"] == "Service"
    }
    for group in groups(name):
        (container,) = group["template"]["spec"]["containers"]
        environment = {e["name"]: e["value"] for e in container["env"]}
        url = urlsplit(environment["MLFLOW_TRACKING_URI"])
        assert url.port in services[str(url.hostname)]


def test_job_runs_a_valid_command() -> None:
    spec = document("kuberay/rayjob.yaml")["spec"]
    parameters = check_command(spec["entrypoint"])
    (container,) = spec["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"]
    assert str(parameters["catalog"]).startswith(container["volumeMounts"][0]["mountPath"] + "/")
    assert spec["shutdownAfterJobFinishes"] is True


def test_service_contains_serve_yaml() -> None:
    import yaml

    spec = document("kuberay/rayservice.yaml")["spec"]
    assert yaml.safe_load(spec["serveConfigV2"]) == document("serve.yaml")


def test_service_has_room_for_its_engines() -> None:
    from serving.config import ServeConfig

    config = ServeConfig.parse(document("serve.yaml")["applications"][0]["args"])
    capacity = 0
    for group in cluster("rayservice")["workerGroupSpecs"]:
        (container,) = group["template"]["spec"]["containers"]
        limits = container["resources"]["limits"]
        gpus, cpus = int(limits["nvidia.com/gpu"]), float(limits["cpu"])
        per_pod = min(gpus / config.engine_gpus, cpus / config.engine_cpus)
        capacity += int(per_pod) * group["minReplicas"]
    assert capacity >= config.replicas


def s3_pods() -> list[dict[str, Any]]:
    spec = document("kuberay/raycluster-s3.yaml")["spec"]
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    return [group["template"]["spec"] for group in groups]


def test_the_s3_cluster_shares_no_volume() -> None:
    spec = document("kuberay/raycluster-s3.yaml")["spec"]
    assert (spec["authOptions"], spec["rayVersion"]) == ({"mode": "token"}, pinned("ray"))
    for pod in s3_pods():
        (container,) = pod["containers"]
        environment = {e["name"]: e["value"] for e in container["env"]}
        assert environment["STYLE_FACTORY_HOME"].startswith("s3://")
        assert environment["MLFLOW_TRACKING_URI"] == "http://mlflow:5000"
        volumes = {v["name"]: v for v in pod["volumes"]}
        assert all("persistentVolumeClaim" not in v for v in volumes.values())
        (cache,) = (m["name"] for m in container["volumeMounts"] if m["mountPath"] == "/cache")
        assert "emptyDir" in volumes[cache]
        assert environment["STYLE_FACTORY_CACHE"].startswith("/cache/")
        assert [f["secretRef"]["name"] for f in container["envFrom"]] == ["style-factory-s3"]


def test_a_worker_that_ends_is_drained_within_its_grace_period() -> None:
    from ray.scripts.scripts import drain_node

    (worker,) = s3_pods()[1:]
    (container,) = worker["containers"]
    shell, flag, script = container["lifecycle"]["preStop"]["exec"]["command"]
    drain, sleep = script.split(" && ")
    words = shlex.split(drain)
    assert (shell, flag, words[:2]) == ("bash", "-c", ["ray", "drain-node"])
    options = drain_node.make_context("drain-node", words[2:]).params
    assert options["reason"] == "DRAIN_NODE_REASON_PREEMPTION"
    deadline = options["deadline_remaining_seconds"]
    assert float(sleep.split()[1]) < deadline < worker["terminationGracePeriodSeconds"]
