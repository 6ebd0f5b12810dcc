"""Training checkpoints: round trip, and errors of other files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from osasis.checkpoints import load_checkpoint, save_checkpoint
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
