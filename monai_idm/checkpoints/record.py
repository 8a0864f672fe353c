"""What a checkpoint says about the run that made it."""

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
ADDED = ("zoom", "window_percentiles", "label_map", "coordinates")  # to the convention since version 0.1.0
_logger = logging.getLogger(__name__)


class HasSettings(Protocol):
    """A part of a run on which a voxel of the result depends."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """What it was made with, plain types."""


class TaskOfRun(HasSettings, Protocol):
    """The task of a run."""

    name: ClassVar[str]


class RunRecord:
    """A plain-type record that travels with a network's weights (:mod:`monai_idm.checkpoints.signature`).

    Loading checks it: weights trained for another convention would load silently and predict nonsense.

    The record's ``convention`` is what a voxel of the result depends on besides the weights. It must be the same when
    the weights are loaded; so must the grid, ``spatial_size``, unless voxels are left as they are (``zoom: false``) and
    the network is not told where they lie.

    Args:
        task: Task of the run.
        parts: Other parts of the run whose settings belong to the convention: noise schedule, preprocessing.
        seed: Seed of the run.
    Raises:
        TypeError: If a part does not say its settings.
    """

    def __init__(
        self,
        task: TaskOfRun | None = None,
        parts: Sequence[HasSettings] = (),
        seed: int | None = None,
    ) -> None:
        if silent := [type(part).__name__ for part in parts if not hasattr(part, "settings")]:
            raise TypeError(
                f"{', '.join(silent)} has no settings, which the weights would have to say later; take one of ours, as "
                "StridedDDPMScheduler or BrainToGridd, or give yours a dictionary settings of plain values"
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
        """Write this record into every ``state_dict`` of a network, and check what the network loads.

        Returns:
            The network.
        """
        sign(network, _SECTION, self._written, self._check)
        return network

    def describe_data(
        self,
        source: str,
        num_cases: int,
        spatial_size: Sequence[int],
        spacing_mm: float,
        split: Mapping[str, Sequence[Case]] | None = None,
    ) -> None:
        """Say what the weights are trained on.

        Args:
            source: Where the cases came from; :data:`PHANTOM` for generated ones.
            num_cases: Number of training cases.
            spatial_size: Size of the training grid, in voxels.
            spacing_mm: Voxel size of the training grid.
            split: Subject and patient of every case, by its part: ``training``, ``validation``, ``test``. The record
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
        """After a checkpoint is loaded to go on with: its training must have had the cases of this one.

        Raises:
            ValueError: If a part of the split holds others: those judged might have been trained on.
        """
        theirs = TrainingSplit.of(self.loaded)
        if theirs is None or self._split is None:
            return
        if others := theirs.differs_from(self._split):
            raise ValueError(
                f"the checkpoint was trained with other cases than there are now (in {', '.join(others)}); go on with "
                "the --dataset_dir and --seed of its training, and with the datalist.json in its output_dir as "
                "--datalist_file, or start anew in another --ckpt_dir"
            )

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

    def _written(self, network: nn.Module) -> dict[str, Any]:
        theirs = TrainingSplit.of(self.loaded)
        if theirs is None or "split" not in self.content:
            return self.content
        # what the weights were trained on before, they have seen, too
        earlier = [split for split in theirs.splits if split["salt"] != self.content["split"]["salt"]]
        return {**self.content, "earlier": earlier}

    def _check(self, theirs: Mapping[str, Any]) -> None:
        ours, trained = self.content["convention"], theirs["convention"]
        said = [name for name in {**ours, **trained} if name in trained or name not in ADDED]
        different = differences(trained, ours, said)
        size = theirs.get("data", {}).get("spatial_size")
        if grid_is_fixed(trained) and None not in (size, self.spatial_size):
            different += differences({"spatial_size": size}, {"spatial_size": self.spatial_size})
        if different:
            raise ValueError(
                f"the checkpoint was trained under another convention ({'; '.join(different)}); set these knobs as in "
                f"its training, or choose another checkpoint"
            )
        if self.loaded is None:
            warn_of_unrecorded(theirs, ours)
        self.loaded = dict(theirs)


def grid_is_fixed(convention: Mapping[str, Any]) -> bool:
    """Whether a network has to be given volumes on the grid of its training.

    It has not where voxels are left as they are and nothing says where in the grid they lie.
    """
    return convention.get("zoom", True) or convention.get("coordinates", False)


def warn_of_unrecorded(record: Mapping[str, Any], taken: Mapping[str, Any]) -> None:
    """Log what a record of version 0.1.0 does not say, and the values that are taken instead."""
    unsaid = [f"{name}={taken[name]}" for name in ADDED if name in taken and name not in record["convention"]]
    if unsaid:
        _logger.warning(
            "the weights, of version %s, do not say with what values of these knobs they were trained; they are "
            "taken to be %s",
            record.get("versions", {}).get("monai_idm", "unknown"),
            ", ".join(unsaid),
        )


def read_record(file: str | Path) -> dict[str, Any] | None:
    """The record in a file of weights, or None where there is none; the file as for :func:`read_weights`."""
    return read_weights(file)[1].get(_SECTION)


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
    return weights, read_sections(weights)


def fingerprint(file: str | Path) -> str | None:
    """The SHA-256 of a file, or None where there is none."""
    if not Path(file).is_file():
        return None
    with Path(file).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
