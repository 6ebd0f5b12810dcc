"""Logs an evaluation in the registry, and lets its gate decide about the evaluated versions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from factory.core.home import Home
from factory.registry import Registry, StyleVersion
from factory.registry.gate import Condition, gate_failures
from osasis.evaluation.names import PREFIX
from pipelines.evaluation_result import EvaluationResult
from pipelines.variants import Variant


def register_results(
    home: Home,
    result: EvaluationResult,
    versions: Mapping[str, StyleVersion],
    variants: Sequence[Variant],
    gate: Sequence[Condition],
) -> EvaluationResult:
    """Log the results of each style in its version's run; returns the result with the gate's part.

    Only a variant with the style's own settings is logged; without one, nothing is. A candidate
    that meets the gate becomes champion.
    """
    own = next((v.name for v in variants if v.as_registered), None)
    if own is None:
        return result
    registry = Registry(home)
    missed: dict[str, tuple[str, ...]] = {}
    for style, version in versions.items():
        estimates = result.results[style][own]
        metrics = {PREFIX + n: e.value for n, e in estimates.items() if e.value is not None}
        registry.log_evaluation(version, metrics, result.of_style(style, own))
        if gate:
            known = registry.client.get_run(version.run_id).data.metrics
            missed[style] = gate_failures(gate, {**known, **metrics})
            registry.apply_gate(version, missed[style])
    references = tuple(v.reference for v in versions.values())
    return replace(result, gate=missed, registered=references)
