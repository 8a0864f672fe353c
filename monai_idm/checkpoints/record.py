"""What a checkpoint says about the run that made it."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from monai_idm.checkpoints.files import read_checkpoint
from monai_idm.machine import VERSIONS

__all__ = ["PHANTOM", "RunRecord", "fingerprint", "read_record", "read_weights"]

PHANTOM = "phantom"

_KEY = "record"


class RunRecord:
    """A plain-type record that travels in the metadata of a network's ``state_dict``.

    There it goes wherever the weights go (``model.pt`` stays a bare ``state_dict``, which every MONAI tool loads), and
    loading checks it: weights trained for another convention would load silently and predict nonsense.

    Args:
        convention: What prediction depends on besides the weights, plain types (modalities, network range, noise
            schedule, timesteps, prediction type). It must be the same when the weights are loaded.
        seed: Of the run.
    """

    def __init__(self, convention: dict[str, Any], seed: int | None = None) -> None:
        self.content: dict[str, Any] = {
            "convention": dict(convention),
            "seed": seed,
            "versions": dict(VERSIONS),
        }
        self.loaded: dict[str, Any] | None = None
        """The record of the checkpoint that was loaded last."""

    def sign(self, network: nn.Module) -> nn.Module:
        """Write this record into every ``state_dict`` of a network, and check what the network loads.

        Returns:
            The network.
        """
        # partials: torch marks a hook by an attribute, which a bound method cannot hold
        network.register_state_dict_post_hook(partial(RunRecord._write, self))
        network.register_load_state_dict_pre_hook(partial(RunRecord._check, self))
        return network

    def describe_data(self, source: str, num_cases: int, spatial_size: Sequence[int], spacing_mm: float) -> None:
        """Say what the weights are trained on.

        Args:
            source: Where the cases came from; :data:`PHANTOM` for generated ones.
            num_cases: Number of training cases.
            spatial_size: Of the training grid, in voxels.
            spacing_mm: Voxel size of the training grid.
        """
        self.content["data"] = {
            "source": source,
            "num_cases": num_cases,
            "spatial_size": list(spatial_size),
            "spacing_mm": spacing_mm,
        }

    def refuse_to_replace(self, file: str | Path) -> None:
        """Before training: a run on phantoms must not overwrite what was trained on data.

        Raises:
            FileExistsError: If this run's data are phantoms and the file's are not.
        """
        if not Path(file).exists() or self.content["data"]["source"] != PHANTOM:
            return
        theirs = (read_record(file) or {}).get("data", {"source": "unknown data", "num_cases": "an unknown number of"})
        if theirs["source"] != PHANTOM:
            raise FileExistsError(
                f"{file} was trained on {theirs['num_cases']} cases of {theirs['source']}, and this run trains on "
                f"generated phantoms; give --dataset_dir to train on data, or --ckpt_dir to write elsewhere"
            )

    def _write(self, module: nn.Module, state_dict: dict, prefix: str, local_metadata: dict) -> None:
        local_metadata[_KEY] = copy.deepcopy(self.content)

    def _check(self, module: nn.Module, state_dict: dict, prefix: str, local_metadata: dict, *_: Any) -> None:
        theirs = local_metadata.get(_KEY)
        if theirs is None:
            return
        different = [
            f"{name}: {theirs['convention'].get(name)} in the checkpoint, {value} here"
            for name, value in self.content["convention"].items()
            if theirs["convention"].get(name) != value
        ]
        if different:
            raise ValueError(
                f"the checkpoint was trained under another convention ({'; '.join(different)}); set these knobs as in "
                f"its training, or choose another checkpoint"
            )
        self.loaded = theirs


def read_record(file: str | Path) -> dict[str, Any] | None:
    """The record in a file of weights, or None where there is none; the file as for :func:`read_weights`."""
    return read_weights(file)[1].get(_KEY)


def read_weights(file: str | Path) -> tuple[Mapping[str, Any], dict[str, Any]]:
    """The weights in a file, and what they say of themselves.

    Args:
        file: A ``state_dict``, or a dictionary of them with the key ``"network"``.
    Returns:
        The ``state_dict``, and a dictionary with the ``record`` of the run and the ``arguments`` of the network, where
        they are.
    Raises:
        DamagedFile: If the file is not what was written.
    """
    content = read_checkpoint(file, mmap=True)
    weights = content.get("network", content)
    return weights, getattr(weights, "_metadata", {}).get("", {})


def fingerprint(file: str | Path) -> str | None:
    """The SHA-256 of a file, or None where there is none."""
    if not Path(file).is_file():
        return None
    with Path(file).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
