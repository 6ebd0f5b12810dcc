"""The `ray up` file passes Ray's own validation."""

from __future__ import annotations

import shlex
from typing import Any

import pytest

from tests.infra.conftest import document


def validated(config: dict[str, Any]) -> dict[str, Any]:
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared: dict[str, Any] = prepare_config(config)
    validate_config(prepared)
    return prepared


def test_ray_accepts_the_file() -> None:
    prepared = validated(document("cluster.yaml"))
    (node,) = prepared["available_node_types"].values()
    assert node["max_workers"] == len(prepared["provider"]["worker_ips"]) == 2


def test_validation_refuses_mistakes() -> None:
    config = document("cluster.yaml")
    del config["provider"]["type"]
    with pytest.raises(Exception, match=r"type|provider"):
        validated(config)
    with pytest.raises(Exception, match="hed_start"):
        validated({**document("cluster.yaml"), "hed_start_ray_commands": []})


def test_start_commands_have_known_options() -> None:
    from ray.scripts.scripts import start

    known = {o for p in start.params for o in [*p.opts, *p.secondary_opts]}
    config = document("cluster.yaml")
    commands = config["head_start_ray_commands"] + config["worker_start_ray_commands"]
    starts = [shlex.split(c)[2:] for c in commands if c.startswith("ray start")]
    assert len(starts) == 2
    for words in starts:
        for word in words:
            assert word.partition("=")[0] in known, word


def test_nodes_share_the_home_and_need_the_token() -> None:
    options = document("cluster.yaml")["docker"]["run_options"]
    volume = next(o for o in options if o.startswith("--volume="))
    assert volume.endswith(":/data")
    assert "--env=RAY_AUTH_MODE=token" in options
    token = next(o for o in options if "RAY_AUTH_TOKEN_PATH=" in o).rpartition("=")[2]
    assert token.startswith("/data/")
