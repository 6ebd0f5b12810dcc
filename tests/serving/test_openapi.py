"""Schemathesis on the OpenAPI document: no 5xx, and answers as documented."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest

from tests.serving.conftest import Server, photo_bytes

pytestmark = pytest.mark.slow
schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")
hypothesis = pytest.importorskip("hypothesis", reason="hypothesis is not installed")
checks = schemathesis.checks
checks.load_all_checks()

EXAMPLES = 25
# A schema cannot state that a string holds image bytes or an id of the server.
EXCLUDED = [checks.CHECKS.get_one("positive_data_acceptance")]


def test_answers_match_the_schema(server: Server) -> None:
    """Sends valid and invalid requests to every operation."""
    api = schemathesis.openapi.from_url(server.url + "/openapi.json")
    seen: dict[str, set[int]] = {}
    for found in api.get_all_operations():
        operation = found.ok()
        for mode in schemathesis.GenerationMode:
            ask(operation, mode, server, seen.setdefault(operation.label, set()))
    assert len(seen) >= 10 and all(seen.values())
    # Some requests must have succeeded, and some must have been refused.
    assert {200, 422} <= {status for found in seen.values() for status in found}


def ask(operation: Any, mode: Any, server: Server, seen: set[int]) -> None:
    """Send generated requests to one operation and check every answer against the schema."""

    @hypothesis.settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(operation.as_strategy(generation_mode=mode))
    def check(case: Any) -> None:
        answer = case.call_and_validate(
            base_url=server.url, headers=server.headers, excluded_checks=EXCLUDED, timeout=60
        )
        seen.add(answer.status_code)

    if mode == schemathesis.GenerationMode.POSITIVE:
        check()
        return
    # There is no invalid request to an operation without parameters.
    with contextlib.suppress(hypothesis.errors.Unsatisfiable):
        check()


@pytest.fixture(scope="module")
def encoding(server: Server) -> str:
    made = server.post("/v1/encodings", files={"image": ("p.png", photo_bytes(900), "image/png")})
    key: str = made.json()["encodings"][0]["id"]
    return key


def test_valid_mixes_succeed_or_are_refused(server: Server, encoding: str) -> None:
    """Mixes that the schema allows, with registered styles and a stored photo."""
    document = server.get("/openapi.json").json()
    mixes = document["components"]["schemas"]["Mix"]["properties"]
    strategies = hypothesis.strategies
    number = strategies.floats(allow_nan=False, allow_infinity=False)
    names = sorted(mixes)
    seen: set[int] = set()

    def value(name: str) -> Any:
        options = mixes[name].get("anyOf", [mixes[name]])
        inner = next(o for o in options if o.get("type") != "null")
        if "enum" in inner:
            return strategies.sampled_from(inner["enum"])
        if inner.get("type") == "array":
            return strategies.lists(strategies.floats(0, 1), max_size=4)
        low, high = inner.get("minimum"), inner.get("maximum")
        if inner.get("type") == "integer":
            return strategies.integers(low, high)
        if inner.get("type") == "number":
            return strategies.one_of(strategies.floats(low, high), number)
        return strategies.text(max_size=20)

    @hypothesis.settings(
        max_examples=150, deadline=None, derandomize=True, database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )  # fmt: skip
    @hypothesis.given(strategies.data())
    def ask(data: Any) -> None:
        some = data.draw(strategies.lists(strategies.sampled_from(names), max_size=3, unique=True))
        styles = strategies.lists(strategies.sampled_from(["ink", "oil", "sepia"]), min_size=1,
                                  max_size=3, unique=True)  # fmt: skip
        mix = {n: data.draw(value(n)) for n in some if n != "styles"}
        body = {"encodings": [encoding], "mix": {**mix, "styles": data.draw(styles)}}
        answer = server.post("/v1/stylize", json=body)
        seen.add(answer.status_code)
        assert answer.status_code in (200, 422), answer.text
        if answer.status_code == 422:
            error = answer.json()["error"]
            assert error["field"].removeprefix("mix.").split("[")[0] in mix

    ask()
    assert seen == {200, 422}
