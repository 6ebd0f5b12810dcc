"""HTML reports: single files rendered from one base template and one style sheet."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined


def render_report(
    package: str, template: str, *, filters: Mapping[str, Callable[..., Any]], **context: Any
) -> str:
    """Render a template from a package's folder ``templates``; values are escaped.

    filters: template filters by name. context: the template's variables; ``base.html.j2`` needs
    ``title`` and ``stats``, a list of (name, value, alarm).
    """
    environment = _environment(package)
    environment.filters |= filters
    return environment.get_template(template).render(**context)


@lru_cache(maxsize=8)
def _environment(package: str) -> Environment:
    shared = PackageLoader(__name__, "templates")
    return Environment(
        loader=ChoiceLoader([PackageLoader(package, "templates"), shared]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
