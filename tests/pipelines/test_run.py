"""The stream's settings of Ray Data."""

from __future__ import annotations

import pytest

from pipelines import run


def test_ray_data_looks_less_often_while_the_cpu_computes() -> None:
    """Ray has no setting for it: an upgrade that drops or renames the constant shows here."""
    from ray.data._internal.execution import streaming_executor_state as loop

    assert loop.WAIT_FOR_TASK_COMPLETION_TIMEOUT_S == 0.1
    with pytest.raises(KeyError), run._looking_less_often():
        assert loop.WAIT_FOR_TASK_COMPLETION_TIMEOUT_S == run.CPU_LOOK_SECONDS
        raise KeyError
    assert loop.WAIT_FOR_TASK_COMPLETION_TIMEOUT_S == 0.1
