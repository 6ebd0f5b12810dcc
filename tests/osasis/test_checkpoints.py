"""Training checkpoints: round trip, and errors of other files."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from osasis.checkpoints import CheckpointWriter, load_checkpoint, save_checkpoint
from osasis.errors import UserError
from osasis.storage import save_tensors


def test_tensors_and_json_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "state"
    tensors = {"a": torch.arange(6.0).view(2, 3), "step": torch.tensor(3.0)}
    info = {"iteration": 3, "history": [{"total": 0.1}], "note": None}
    save_checkpoint(path, tensors, info)
    read, told = load_checkpoint(path)
    assert told == info
    assert read.keys() == tensors.keys()
    assert all(torch.equal(read[k], v) for k, v in tensors.items())
    # The checkpoint is a single safetensors file.
    assert load_file(path).keys() == tensors.keys()
    assert list(path.parent.iterdir()) == [path]


def test_a_file_that_is_not_a_checkpoint_is_named(tmp_path: Path) -> None:
    broken, plain = tmp_path / "broken", tmp_path / "plain"
    broken.write_bytes(b"not a checkpoint")
    save_tensors(plain, {"a": torch.ones(1)})
    for path in (broken, plain):
        with pytest.raises(UserError) as error:
            load_checkpoint(path)
        assert str(path) in str(error.value)
    with pytest.raises(FileNotFoundError):
        load_checkpoint(tmp_path / "absent")


def test_a_checkpoint_is_written_beside_the_training_and_leaving_waits_for_it(
    tmp_path: Path,
) -> None:
    with CheckpointWriter(tmp_path / "state") as writer:
        for iteration in range(3):
            writer.write({"a": torch.full((4,), float(iteration))}, {"iteration": iteration})
    read, told = load_checkpoint(tmp_path / "state")
    assert told == {"iteration": 2}
    assert read["a"].tolist() == [2.0] * 4


def test_checkpoints_are_due_after_iterations_or_time(tmp_path: Path) -> None:
    by_count = CheckpointWriter(tmp_path / "state", every=2)
    assert [i for i in range(1, 6) if by_count.is_due(i)] == [2, 4]
    by_time = CheckpointWriter(tmp_path / "state", seconds=0.05)
    assert not by_time.is_due(1)
    time.sleep(0.06)
    assert by_time.is_due(2)
    by_time.write({"a": torch.ones(1)}, {})
    assert not by_time.is_due(3)


def test_an_error_of_writing_is_raised_by_the_next_call(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    writer = CheckpointWriter(tmp_path / "file" / "state")
    writer.write({"a": torch.ones(1)}, {})
    with pytest.raises(OSError):
        writer.write({"a": torch.ones(1)}, {})
