"""The Dockerfile names existing files, pinned packages, and commands and routes that exist."""

from __future__ import annotations

import fnmatch
import json
import re
import shlex
from pathlib import PurePosixPath
from urllib.parse import urlsplit

import pytest

from tests.infra.conftest import INFRA, ROOT, check_command, pinned

tomllib = pytest.importorskip("tomllib", reason="needs Python 3.11")
Instruction = tuple[str, str]


def instructions() -> list[Instruction]:
    """(name, arguments) of every instruction, with continued lines joined."""
    lines = (INFRA / "Dockerfile").read_text().splitlines()
    text = "\n".join(x for x in lines if not x.lstrip().startswith("#"))
    joined = re.sub(r"\\\n\s*", " ", text).splitlines()
    return [(x.split(None, 1)[0], x.split(None, 1)[1]) for x in joined if x.strip()]


def arguments_of(name: str) -> list[str]:
    return [arguments for found, arguments in instructions() if found == name]


def copied() -> list[str]:
    """Paths that are copied from the repository, not from another stage."""
    return [
        source
        for arguments in arguments_of("COPY")
        if not arguments.startswith("--from")
        for source in arguments.split()[:-1]
    ]


def ignored(path: str) -> bool:
    """Docker's rule: the last line that matches the path or a parent folder decides."""
    parents = {path, *(str(p) for p in PurePosixPath(path).parents if p.name)}
    out = False
    for line in (INFRA / "Dockerfile.dockerignore").read_text().splitlines():
        if line and not line.startswith("#"):
            pattern = line.removeprefix("!")
            if any(fnmatch.fnmatch(p, pattern) for p in parents):
                out = not line.startswith("!")
    return out


def test_copied_files_exist_and_are_not_ignored() -> None:
    sources = copied()
    for source in sources:
        assert (ROOT / source).exists(), source
        assert not ignored(source), source
    assert ignored("tests") and ignored(".venv") and ignored("docs")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = [p.rstrip("*") for p in project["tool"]["setuptools"]["packages"]["find"]["include"]]
    assert set(packages) <= set(sources)
    needed = [project["project"]["readme"], *project["project"]["license-files"]]
    assert set(needed) | {"pyproject.toml", "constraints.txt"} <= set(sources)


def test_packages_are_pinned_and_include_the_extras() -> None:
    installs = [r for r in arguments_of("RUN") if "pip install" in r]
    (with_packages,) = [r for r in installs if "--no-deps" not in r]
    assert "-c constraints.txt" in with_packages
    found = re.search(r"\.\[([\w,]+)\]", with_packages)
    assert found is not None
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    packages = {re.split(r"[<>=]", p)[0] for e in found[1].split(",") for p in extras[e]}
    assert packages == {"pillow-heif", "imagecodecs", "psycopg2-binary", "s3fs"}
    assert all(pinned(p) for p in packages)


def test_image_runs_as_unprivileged_user_and_serves() -> None:
    assert arguments_of("USER")[-1] == "ray"
    made = next(r for r in arguments_of("RUN") if "useradd" in r)
    assert "--uid 1000 ray" in made
    command = check_command(json.loads(arguments_of("CMD")[-1]))
    assert command["host"] == "0.0.0.0"
    assert str(command["port"]) in arguments_of("EXPOSE")


def test_health_check_calls_an_existing_route() -> None:
    from serving.api.health import router

    check = arguments_of("HEALTHCHECK")[0]
    words = json.loads(check[check.index("[") :])
    url = urlsplit(words[-1])
    assert url.path in {r.path for r in router.routes}  # type: ignore[attr-defined]
    assert str(url.port) in arguments_of("EXPOSE")
    program = words[0]
    installed = next(r for r in arguments_of("RUN") if "apt-get install" in r)
    assert program in shlex.split(installed)
