"""The MLflow server's files have valid options and variables, and consistent names."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from tests.infra.conftest import document, documents


def check_server(command: list[str], environment: dict[str, str]) -> None:
    """Assert that `mlflow server` has every option and variable."""
    import mlflow.environment_variables as variables
    from mlflow.cli import server

    assert command[:2] == ["mlflow", "server"]
    options = {o for p in server.params for o in p.opts}
    for word in command[2:]:
        assert word.partition("=")[0] in options, word
    known = {p.envvar for p in server.params} | set(vars(variables))
    for name in environment:
        assert not name.startswith("MLFLOW_") or name in known, name
    assert "MLFLOW_BACKEND_STORE_URI" in environment


def check_store(uri: str, host: str, user: str, database: str) -> None:
    from sqlalchemy.engine import make_url

    url = make_url(uri.replace("$(POSTGRES_PASSWORD)", "x").replace("${POSTGRES_PASSWORD}", "x"))
    assert (url.drivername, url.port) == ("postgresql+psycopg2", 5432)
    assert (url.host, url.username, url.database) == (host, user, database)


def test_compose() -> None:
    services = document("mlflow/compose.yaml")["services"]
    server, database = services["mlflow"], services["postgres"]
    check_server(server["command"], server["environment"])
    facts = database["environment"]
    check_store(server["environment"]["MLFLOW_BACKEND_STORE_URI"], "postgres",
                facts["POSTGRES_USER"], facts["POSTGRES_DB"])  # fmt: skip
    assert server["depends_on"]["postgres"]["condition"] == "service_healthy"
    volumes = document("mlflow/compose.yaml")["volumes"]
    for service in services.values():
        assert service["image"] and service["healthcheck"]["test"][0] == "CMD"
        assert {v.partition(":")[0] for v in service["volumes"]} <= set(volumes)
    artifacts = next(c for c in server["command"] if c.startswith("--artifacts-destination="))
    assert artifacts.partition("=")[2].startswith(server["volumes"][0].partition(":")[2] + "/")


def kind(name: str) -> list[dict[str, Any]]:
    return [d for d in documents("mlflow/kubernetes.yaml") if d["kind"] == name]


def environment_of(workload: dict[str, Any]) -> dict[str, str]:
    (container,) = workload["spec"]["template"]["spec"]["containers"]
    return {e["name"]: e.get("value", "") for e in container["env"]}


def test_kubernetes_server() -> None:
    (server,), (database,) = kind("Deployment"), kind("StatefulSet")
    (container,) = server["spec"]["template"]["spec"]["containers"]
    environment, facts = environment_of(server), environment_of(database)
    check_server(container["args"], environment)
    check_store(environment["MLFLOW_BACKEND_STORE_URI"], "mlflow-postgres",
                facts["POSTGRES_USER"], facts["POSTGRES_DB"])  # fmt: skip
    # Kubernetes expands only variables that are defined earlier in the list.
    assert list(environment).index("POSTGRES_PASSWORD") < list(environment).index(
        "MLFLOW_BACKEND_STORE_URI"
    )
    service = document("kuberay/rayservice.yaml")["spec"]["rayClusterConfig"]["headGroupSpec"]
    (ray,) = service["template"]["spec"]["containers"]
    uri = next(e["value"] for e in ray["env"] if e["name"] == "MLFLOW_TRACKING_URI")
    allowed = environment["MLFLOW_SERVER_ALLOWED_HOSTS"].split(",")
    assert urlsplit(uri).netloc in allowed
    probe = container["readinessProbe"]["httpGet"]
    assert probe["httpHeaders"][0]["value"] in allowed


def test_kubernetes_names_are_consistent() -> None:
    pods = {
        d["metadata"]["name"]: d["spec"]["template"]["metadata"]["labels"]
        for d in [*kind("Deployment"), *kind("StatefulSet")]
    }
    for workload in [*kind("Deployment"), *kind("StatefulSet")]:
        labels = pods[workload["metadata"]["name"]]
        assert workload["spec"]["selector"]["matchLabels"].items() <= labels.items()
        template = workload["spec"]["template"]["spec"]
        claims = {c["metadata"]["name"] for c in workload["spec"].get("volumeClaimTemplates", [])}
        volumes = {v["name"] for v in template.get("volumes", [])} | claims
        (container,) = template["containers"]
        assert {m["name"] for m in container["volumeMounts"]} == volumes
    for service in kind("Service"):
        assert service["spec"]["selector"] in pods.values()
    home = kind("Deployment")[0]["spec"]["template"]["spec"]["volumes"][0]
    claim = document("kuberay/storage.yaml")["metadata"]["name"]
    assert home["persistentVolumeClaim"]["claimName"] == claim
