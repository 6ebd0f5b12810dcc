"""Prometheus and Grafana query metrics that the server and Ray export."""

from __future__ import annotations

import json
import re
from pathlib import Path

from serving.metrics import HELP, PREFIX, Counters, render
from tests.infra.conftest import INFRA, ROOT, document

DASHBOARD = INFRA / "monitoring" / "grafana-dashboard.json"


def expressions() -> list[str]:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return [t["expr"] for p in panels for t in p.get("targets", [])]


def names(prefix: str) -> set[str]:
    return {n for e in expressions() for n in re.findall(rf"\b{prefix}\w+", e)}


def exported() -> set[str]:
    """Every metric name that serving exports; a real histogram gives the names of its series."""
    counters = Counters()
    counters.observe("request_seconds", 0.2)
    histogram = {k.partition("{")[0] for k in counters.samples()}
    plain = {k for k in HELP if k != "request_seconds"}
    # A metric is exported only if code outside serving/metrics.py sets it.
    code = "".join(p.read_text() for p in (ROOT / "serving").rglob("*.py") if p.stem != "metrics")
    return {PREFIX + k for k in plain if f'"{k}"' in code} | {PREFIX + k for k in histogram}


def test_queried_metrics_of_the_server_are_exported() -> None:
    assert len(names(PREFIX)) >= 12
    assert names(PREFIX) <= exported()
    assert f"{PREFIX}styles_bytes 3" in render([{"styles_bytes": 3.0}])


def test_queried_metrics_of_ray_are_in_its_own_dashboards() -> None:
    import ray

    folder = Path(ray.__file__).parent / "dashboard" / "modules" / "metrics" / "dashboards"
    known = {n for p in folder.glob("*.py") for n in re.findall(r"\bray_\w+", p.read_text())}
    assert len(names("ray_")) >= 8
    assert names("ray_") <= known


def test_only_counters_are_queried_as_rates() -> None:
    for expression in expressions():
        for name in re.findall(rf"\b(?:{PREFIX}|ray_)\w+", expression):
            counts = name.endswith(("_total", "_bucket", "_count", "_sum"))
            assert (f"rate({name}[" in expression) == counts, expression
        assert expression.count("(") == expression.count(")")


def test_panels_do_not_overlap() -> None:
    data = json.loads(DASHBOARD.read_text())
    assert data["uid"] and data["title"] and data["schemaVersion"] >= 36
    taken: set[tuple[int, int]] = set()
    for panel in data["panels"]:
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert at["x"] + at["w"] <= 24 and not cells & taken, panel["title"]
        taken |= cells
        assert panel["type"] == "row" or panel["datasource"]["uid"] == "${datasource}"
    assert len({p["id"] for p in data["panels"]}) == len(data["panels"])


def test_prometheus_scrapes_serving_once_and_every_node_of_ray() -> None:
    port = document("serve.yaml")["http_options"]["port"]
    for name in ("prometheus.yaml", "prometheus-kubernetes.yaml"):
        config = document(f"monitoring/{name}")
        jobs = {j["job_name"]: j for j in config["scrape_configs"]}
        assert set(jobs) == {"style-factory", "ray"}
        (static,) = jobs["style-factory"]["static_configs"]
        (target,) = static["targets"]
        assert target.endswith(f":{port}")
        # The server has the default path.
        assert jobs["style-factory"].get("metrics_path", "/metrics") == "/metrics"
    service = document("kuberay/rayservice.yaml")["metadata"]["name"]
    assert target == f"{service}-serve-svc:{port}"
    keep = [r for r in jobs["ray"]["relabel_configs"] if r.get("action") == "keep"]
    port_names = {r["regex"] for r in keep}
    spec = document("kuberay/rayservice.yaml")["spec"]["rayClusterConfig"]
    for group in [spec["headGroupSpec"], *spec["workerGroupSpecs"]]:
        ports = {p["name"] for p in group["template"]["spec"]["containers"][0]["ports"]}
        assert "metrics" in ports & port_names
