"""Layouts with ``imagesTr``, ``labelsTr`` and ``dataset.json``: the Decathlon's, and nnU-Net's, which grew out of it.

::

    Decathlon            imagesTr/<case>.nii.gz in 4D                       "modality": {"0": "FLAIR", ...}
    nnU-Net, version 1   imagesTr/<case>_0000.nii.gz, one for each channel  "modality": {"0": "T1", ...}
    nnU-Net, version 2   the same                                           "channel_names": {"0": "T1", ...}

Both have ``labelsTr/<case>.nii.gz``. Only the image files distinguish nnU-Net's version 1 from the Decathlon.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from monai_idm.data.layouts.case import NIFTI, Case, nifti_files
from monai_idm.data.modalities import MODALITIES, NAMES

__all__ = ["channel_order", "task_folder_cases"]

_ONE_CHANNEL = re.compile(r"(?P<case>.+)_(?P<channel>\d{4})")
_KEYS = ("channel_names", "modality")  # of dataset.json: nnU-Net's version 2 and the other layouts, respectively


def task_folder_cases(root: Path) -> dict[str, Case]:
    """The cases in ``imagesTr``; ``imagesTs``, which has no labels, is ignored.

    Args:
        root: A folder with a folder ``imagesTr``.
    Raises:
        FileNotFoundError: If there are images but no dataset.json.
        ValueError: If dataset.json does not name the channels, or files of both layouts are mixed.
    """
    images, labels = _files(root / "imagesTr"), _files(root / "labelsTr")
    if not images:
        return {}
    description = _Description(root / "dataset.json")
    case_names = {stem for stem, _ in labels} | description.listed
    one_channel: list[tuple[str, Path]] = []
    all_channels: list[tuple[str, Path]] = []
    for stem, path in images:
        is_one_channel = stem not in case_names and _ONE_CHANNEL.fullmatch(stem)
        (one_channel if is_one_channel else all_channels).append((stem, path))
    if one_channel and all_channels:
        raise ValueError(
            f"{root / 'imagesTr'} holds {all_channels[0][1].name}, a file of all channels (Decathlon), and "
            f"{one_channel[0][1].name}, a file of one channel (nnU-Net's <case>_0000); all cases must have the same "
            "layout: move the others elsewhere"
        )
    cases = _nnunet_cases(one_channel, description) if one_channel else _decathlon_cases(all_channels, description)
    for stem, path in labels:
        if stem in cases:
            cases[stem].add("seg", path)
    return cases


def _decathlon_cases(images: list[tuple[str, Path]], description: _Description) -> dict[str, Case]:
    cases: dict[str, Case] = {}
    for stem, path in images:
        case = cases.setdefault(stem, Case())
        for channel, name in enumerate(description.names):
            case.add(name, path, channel)
    return cases


def _nnunet_cases(images: list[tuple[str, Path]], description: _Description) -> dict[str, Case]:
    names = description.names
    unknown = [written for written, name in zip(description.written, names, strict=True) if name not in MODALITIES]
    if unknown:
        raise ValueError(
            f"{description.file} names the channels {description.written}; {', '.join(map(repr, unknown))} must be one "
            f"of {', '.join(name for name in NAMES if name != 'seg')}, in upper or lower case: correct the name in "
            "that file"
        )
    cases: dict[str, Case] = {}
    for stem, path in images:
        parts = _ONE_CHANNEL.fullmatch(stem)
        assert parts is not None
        case, channel = cases.setdefault(parts["case"], Case()), int(parts["channel"])
        if channel < len(names):
            case.add(names[channel], path)
        else:
            case.faults.append(
                f"has {path.name}, channel {channel}, but dataset.json names the channels 0 to {len(names) - 1} (move "
                "the file elsewhere, or name its channel there)"
            )
    return cases


def channel_order(file: Path) -> list[str]:
    """The channels that a ``dataset.json`` names, in order, by the names used here where those are known.

    Raises:
        FileNotFoundError, ValueError: See :func:`task_folder_cases`.
    """
    return _Description(file).names


class _Description:
    """The description of the images in a ``dataset.json``.

    Args:
        file: Path of the dataset.json.
    Raises:
        FileNotFoundError, ValueError: See :func:`task_folder_cases`.
    """

    def __init__(self, file: Path) -> None:
        if not file.is_file():
            raise FileNotFoundError(
                f"{file} is missing; it states which channel is which modality: restore it from the data set's archive"
            )
        self.file = file
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            orders = [_in_order(content[key]) for key in _KEYS if key in content] or [_in_order(content["modality"])]
            self.names = [NAMES.get(re.sub(r"[ _-]", "", name.lower()), name) for name in orders[0]]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{file} does not give the channels' order ({type(error).__name__}: {error}); it must hold "
                '"modality": {"0": "FLAIR", "1": "T1w", ...}, or the same as "channel_names": restore it from the '
                "data set's archive"
            ) from error
        self.written = orders[0]
        self.listed = _listed(content.get("training"))
        if any(order != self.written for order in orders):
            raise ValueError(
                f"{file} gives two orders of the channels, {orders[0]} as channel_names and {orders[1]} as modality; "
                "they must agree: correct or remove one"
            )
        if "seg" in self.names:
            raise ValueError(
                f"{file} names a channel seg; labels belong in labelsTr: correct the name, or move them there"
            )
        repeated = sorted({name for name in self.names if self.names.count(name) > 1})
        if repeated:
            raise ValueError(
                f"{file} names the channels {self.written}, of which several are {', '.join(repeated)}; each must be "
                "a different modality: correct the names"
            )
        ending = content.get("file_ending", ".nii.gz")
        if str(ending).lower() not in (".nii", ".nii.gz"):
            raise ValueError(
                f'{file} has the "file_ending" {ending!r}; only NIfTI files, .nii and .nii.gz, are read: convert them'
            )


def _in_order(names: dict[str, str]) -> list[str]:
    return [names[str(i)] for i in range(len(names))]


def _listed(training: Any) -> set[str]:
    """The images that dataset.json lists, without folder and ending."""
    entries = training if isinstance(training, list) else []
    images = [entry.get("image") if isinstance(entry, dict) else entry for entry in entries]
    matches = [NIFTI.fullmatch(Path(image).name) for image in images if isinstance(image, str)]
    return {match["stem"] for match in matches if match}


def _files(folder: Path) -> list[tuple[str, Path]]:
    return [(stem, path) for stem, path in nifti_files(folder) if path.is_file()]
