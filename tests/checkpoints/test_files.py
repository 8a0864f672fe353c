"""A checkpoint is read as it was written, or refused."""

from __future__ import annotations

import random

import pytest
import torch

from monai_idm.checkpoints import DamagedFile, read_checkpoint, write_checkpoint

CONTENT = {
    "network": {"weight": torch.randn(4, 3), "half": torch.randn(5).bfloat16(), "count": torch.tensor(3)},
    "optimizer": {"state": {0: {"step": torch.tensor(2.0), "empty": torch.zeros(0)}}, "param_groups": [{"lr": 0.1}]},
    "best": {"metric": None, "name": "psnr"},
}


def bits(content):
    """The content in comparable form: tensors as bytes."""
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


class OnCard(torch.Tensor):
    """Stands for a tensor of a GPU, which a machine without one cannot load."""

    def cpu(self):
        return self.as_subclass(torch.Tensor)


def test_tensors_of_a_gpu_are_written_as_those_of_the_host(tmp_path):
    weights = torch.nn.Linear(2, 3).state_dict()
    weights._metadata[""]["record"] = {"seed": 1}
    expected = {name: tensor.clone() for name, tensor in weights.items()}
    for name in weights:
        weights[name] = weights[name].as_subclass(OnCard)
    write_checkpoint(tmp_path / "a.pt", weights)
    found = read_checkpoint(tmp_path / "a.pt")
    assert bits(dict(found)) == bits(expected)
    assert found._metadata[""]["record"] == {"seed": 1}
    write_checkpoint(tmp_path / "a.pt", {"parts": [{"network": weights}]})
    assert bits(dict(read_checkpoint(tmp_path / "a.pt")["parts"][0]["network"])) == bits(expected)


@pytest.mark.parametrize("mmap", [False, True])
def test_no_flipped_bit_goes_unseen(mmap, tmp_path):
    file = tmp_path / "a.pt"
    write_checkpoint(file, CONTENT)
    sound, chance, refused = file.read_bytes(), random.Random(0), 0
    for _ in range(300):
        damaged = bytearray(sound)
        damaged[chance.randrange(len(sound))] ^= 1 << chance.randrange(8)
        file.write_bytes(damaged)
        try:
            content = read_checkpoint(file, mmap=mmap)
        except DamagedFile:
            refused += 1
        else:  # the bit was between the records, where no reader looks
            assert bits(content) == bits(CONTENT)
    assert refused > 100


@pytest.mark.parametrize("part", [0.0, 0.3, 0.9, 0.99])
def test_a_file_that_ends_too_early_is_refused(tmp_path, part):
    file = tmp_path / "a.pt"
    write_checkpoint(file, CONTENT)
    whole = file.read_bytes()
    file.write_bytes(whole[: int(part * len(whole))])
    with pytest.raises(DamagedFile, match="cannot be read"):
        read_checkpoint(file)


def test_objects_of_classes_are_never_loaded(tmp_path):
    torch.save({"network": tmp_path}, tmp_path / "a.pt")
    with pytest.raises(DamagedFile, match="cannot be read"):
        read_checkpoint(tmp_path / "a.pt")


def test_a_missing_file_is_not_called_damaged(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_checkpoint(tmp_path / "a.pt")
