"""A checkpoint is what was written, or it is refused."""

from __future__ import annotations

import random

import pytest
import torch

from monai_idm.checkpoints import DamagedCheckpoint, read_checkpoint, write_checkpoint

CONTENT = {
    "network": {"weight": torch.randn(4, 3), "half": torch.randn(5).bfloat16(), "count": torch.tensor(3)},
    "optimizer": {"state": {0: {"step": torch.tensor(2.0), "empty": torch.zeros(0)}}, "param_groups": [{"lr": 0.1}]},
    "best": {"metric": None, "name": "psnr"},
}


def bits(content):
    """Everything in it, comparable: tensors by their bytes."""
    if isinstance(content, dict):
        return {key: bits(value) for key, value in content.items()}
    if isinstance(content, list):
        return [bits(value) for value in content]
    if isinstance(content, torch.Tensor):
        return content.dtype, content.shape, content.reshape(-1).view(torch.uint8).tolist()
    return content


def test_what_is_written_is_read(tmp_path):
    write_checkpoint(tmp_path / "made" / "a.pt", CONTENT)
    assert bits(read_checkpoint(tmp_path / "made" / "a.pt")) == bits(CONTENT)


def test_no_flipped_bit_goes_unseen(tmp_path):
    file = tmp_path / "a.pt"
    write_checkpoint(file, CONTENT)
    sound, chance, refused = file.read_bytes(), random.Random(0), 0
    for _ in range(300):
        damaged = bytearray(sound)
        damaged[chance.randrange(len(sound))] ^= 1 << chance.randrange(8)
        file.write_bytes(damaged)
        try:
            content = read_checkpoint(file)
        except DamagedCheckpoint:
            refused += 1
        else:  # the bit was between the records, where nobody looks
            assert bits(content) == bits(CONTENT)
    assert refused > 100


def test_another_tensor_of_the_same_length_is_seen(tmp_path):
    """As an archive it is sound: only the checksum tells."""
    file = tmp_path / "a.pt"
    write_checkpoint(file, CONTENT)
    for change in (lambda weight: weight + 1e-6, lambda weight: weight.view(torch.int32), lambda weight: weight.mT):
        content = torch.load(file, weights_only=True)
        content["network"]["weight"] = change(content["network"]["weight"])
        torch.save(content, tmp_path / "changed.pt")
        with pytest.raises(DamagedCheckpoint, match="checksum"):
            read_checkpoint(tmp_path / "changed.pt")


@pytest.mark.parametrize("part", [0.0, 0.3, 0.9, 0.99])
def test_a_file_that_ends_too_early_is_refused(tmp_path, part):
    file = tmp_path / "a.pt"
    write_checkpoint(file, CONTENT)
    whole = file.read_bytes()
    file.write_bytes(whole[: int(part * len(whole))])
    with pytest.raises(DamagedCheckpoint, match="cannot be read"):
        read_checkpoint(file)


def test_objects_of_classes_are_never_loaded(tmp_path):
    torch.save({"network": tmp_path, "checksum": ""}, tmp_path / "a.pt")
    with pytest.raises(DamagedCheckpoint, match="cannot be read"):
        read_checkpoint(tmp_path / "a.pt")


def test_a_missing_file_is_no_damaged_one(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_checkpoint(tmp_path / "a.pt")
