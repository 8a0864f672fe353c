"""The record of its training that a checkpoint carries."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

from torch import nn

from monai_idm.checkpoints.files import read_checkpoint
from monai_idm.checkpoints.signature import differences, read_sections, sign
from monai_idm.checkpoints.split import Case, TrainingSplit, hashed_split
from monai_idm.machine import VERSIONS

__all__ = ["PHANTOM", "RunRecord", "fingerprint", "grid_is_fixed", "read_record", "read_weights", "warn_of_unrecorded"]

PHANTOM = "phantom"

_SECTION = "record"
# settings that came later, with what trainings did before
LATER = {"noise_shift": 1.0, "numeric_conditions": None, "regression": False}
ADDED = ("zoom", "window_percentiles", "label_map", "coordinates")  # settings that version 0.1.0 did not record
_logger = logging.getLogger(__name__)


class HasSettings(Protocol):
    """A part of a run whose settings affect the result."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """Settings of the part, in plain types."""


class TaskOfRun(HasSettings, Protocol):
    """The task of a run."""

    name: ClassVar[str]


class RunRecord:
    """A record in plain types that is stored with a network's weights (:mod:`monai_idm.checkpoints.signature`).

    It is checked when weights are loaded: weights trained with other settings would load without an error and predict
    nonsense.

    The record's ``convention`` holds the settings, besides the weights, that the result depends on. They must be the
    same when the weights are loaded. So must the grid, ``spatial_size``, unless voxels are left as they are
    (``zoom: false``) and the network does not get their coordinates.

    Args:
        task: Task of the run.
        parts: Other parts of the run whose settings belong to the convention: noise schedule, preprocessing.
        seed: Seed of the run.
    Raises:
        TypeError: If a part has no settings.
    """

    def __init__(
        self,
        task: TaskOfRun | None = None,
        parts: Sequence[HasSettings] = (),
        seed: int | None = None,
    ) -> None:
        if unrecordable := [type(part).__name__ for part in parts if not hasattr(part, "settings")]:
            raise TypeError(
                f"{', '.join(unrecordable)} has no settings to record with the weights; use a class of monai_idm, such "
                "as StridedDDPMScheduler or BrainToGridd, or give yours a dictionary settings of plain values"
            )
        convention = {name: value for part in parts for name, value in part.settings.items()}
        self.spatial_size: Sequence[int] | None = convention.pop("spatial_size", None)
        self.content: dict[str, Any] = {
            **({} if task is None else {"task": task.name}),
            "convention": {**({} if task is None else task.settings), **convention},
            "seed": seed,
            "versions": dict(VERSIONS),
        }
        self.loaded: dict[str, Any] | None = None
        """The record of the checkpoint that was loaded last."""
        self._split: Mapping[str, Sequence[Case]] | None = None

    def sign(self, network: nn.Module) -> nn.Module:
        """Write this record into every ``state_dict`` of a network, and check the record of each one it loads.

        Returns:
            The network.
        """
        sign(network, _SECTION, self._content_for, self._check)
        return network

    def describe_data(
        self,
        source: str,
        num_cases: int,
        spatial_size: Sequence[int],
        spacing_mm: float,
        split: Mapping[str, Sequence[Case]] | None = None,
    ) -> None:
        """Record what the weights are trained on.

        Args:
            source: Where the cases came from; :data:`PHANTOM` for generated ones.
            num_cases: Number of training cases.
            spatial_size: Size of the training grid, in voxels.
            spacing_mm: Voxel size of the training grid.
            split: Subject and patient of every case, by part: ``training``, ``validation``, ``test``. The record
                holds hashes of them.
        """
        self._split = split
        self.content["data"] = {
            "source": source,
            "num_cases": num_cases,
            "spatial_size": list(spatial_size),
            "spacing_mm": spacing_mm,
        }
        if split is not None:
            self.content["split"] = hashed_split(split)

    def require_same_cases(self) -> None:
        """Check, when a run is resumed, that the loaded checkpoint was trained with the cases of this run.

        Raises:
            ValueError: If a part of the split differs: cases for evaluation might have been trained on.
        """
        earlier = TrainingSplit.of(self.loaded)
        if earlier is None or self._split is None:
            return
        if parts := earlier.differs_from(self._split):
            raise ValueError(
                f"the checkpoint was trained with cases other than the current ones (in {', '.join(parts)}); resume "
                "with the --dataset_dir and --seed of its training, and with the datalist.json in its output_dir as "
                "--datalist_file, or start from scratch in another --ckpt_dir"
            )

    def refuse_to_replace(self, file: str | Path) -> None:
        """Make sure, before training, that a run on phantoms does not overwrite a model trained on data.

        Raises:
            FileExistsError: If this run trains on phantoms and the model in the file did not.
        """
        if not Path(file).exists() or self.content["data"]["source"] != PHANTOM:
            return
        data = (read_record(file) or {}).get("data", {"source": "unknown data", "num_cases": "an unknown number of"})
        if data["source"] != PHANTOM:
            raise FileExistsError(
                f"{file} was trained on {data['num_cases']} cases of {data['source']}, and this run trains on "
                f"generated phantoms; give --dataset_dir to train on data, or --ckpt_dir to write elsewhere"
            )

    def _content_for(self, network: nn.Module) -> dict[str, Any]:
        loaded = TrainingSplit.of(self.loaded)
        if loaded is None or "split" not in self.content:
            return self.content
        # the weights have also seen the cases of the runs they started from
        earlier = [split for split in loaded.splits if split["salt"] != self.content["split"]["salt"]]
        return {**self.content, "earlier": earlier}

    def _check(self, record: Mapping[str, Any]) -> None:
        ours = self.content["convention"]
        trained = {**{k: v for k, v in LATER.items() if k in ours}, **record["convention"]}
        recorded = [name for name in {**ours, **trained} if name in trained or name not in ADDED]
        different = differences(trained, ours, recorded)
        size = record.get("data", {}).get("spatial_size")
        if grid_is_fixed(trained) and None not in (size, self.spatial_size):
            different += differences({"spatial_size": size}, {"spatial_size": self.spatial_size})
        if different:
            raise ValueError(
                f"the checkpoint was trained with other settings ({'; '.join(different)}); set these knobs as in its "
                f"training, or choose another checkpoint"
            )
        if self.loaded is None:
            warn_of_unrecorded(record, ours)
        self.loaded = dict(record)


def grid_is_fixed(convention: Mapping[str, Any]) -> bool:
    """Whether a network needs volumes on the grid of its training.

    It does not if voxels are left as they are and the network does not get their coordinates.

    Args:
        convention: The ``convention`` in the record of its weights.
    """
    return convention.get("zoom", True) or convention.get("coordinates", False)


def warn_of_unrecorded(record: Mapping[str, Any], assumed: Mapping[str, Any]) -> None:
    """Log which settings a record written by version 0.1.0 lacks, and the values assumed for them.

    Args:
        record: Record of the weights.
        assumed: Settings of the run, by name.
    """
    unrecorded = [f"{name}={assumed[name]}" for name in ADDED if name in assumed and name not in record["convention"]]
    if unrecorded:
        _logger.warning(
            "the weights were written by version %s, which did not record the values of these knobs in training; "
            "assuming %s",
            record.get("versions", {}).get("monai_idm", "unknown"),
            ", ".join(unrecorded),
        )


def read_record(file: str | Path) -> dict[str, Any] | None:
    """The record in a file of weights, or None if it has none; arguments and errors as in :func:`read_weights`."""
    return read_weights(file)[1].get(_SECTION)


def read_weights(file: str | Path) -> tuple[Mapping[str, Any], dict[str, Any]]:
    """Read the weights in a file and the sections stored with them.

    Args:
        file: A ``state_dict``, or a dictionary that holds one under ``"network"``.
    Returns:
        The ``state_dict``, and a dictionary with the ``record`` of the run and the ``arguments`` of the network, if
        the file has them.
    Raises:
        DamagedFile: If the file has changed since it was written.
    """
    content = read_checkpoint(file, mmap=True)
    weights = content.get("network", content)
    return weights, read_sections(weights)


def fingerprint(file: str | Path) -> str | None:
    """The SHA-256 of a file in hexadecimal, or None if there is no such file.

    Args:
        file: Path of the file.
    """
    if not Path(file).is_file():
        return None
    with Path(file).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
