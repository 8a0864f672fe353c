"""Label maps of any meaning as a condition: a table names the numbers, and each name becomes a channel."""

from __future__ import annotations

import csv
import os
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from monai.utils import convert_to_dst_type
from torch import Tensor

from monai_idm.data.brats import brats_datalist
from monai_idm.data.label_maps import ROUNDING
from monai_idm.data.tracked import as_tensor

__all__ = ["LabelToChannelsd", "labelled_cases", "read_label_table"]

_BRAINS = ("image", "labels")
_HEADINGS = ["number", "name"]
_NAMED = 10  # numbers in an error


def read_label_table(labels: str | os.PathLike[str] | Mapping[str, int | Sequence[int]]) -> dict[str, list[int]]:
    """Read which numbers of a label map belong to which region.

    Args:
        labels: A CSV or TSV file in UTF-8 with the columns ``number`` and ``name``, where several numbers may have the
            same name; or such a table as a mapping, ``{"ventricles": [4, 11], "cerebellum": 38}``.
    Returns:
        The numbers of each region by its name, in the order of the table. 0 is what no region covers, and not listed.
    Raises:
        FileNotFoundError: If the file is missing.
        ValueError: If it is not such a table, or a number is not an integer above 0, or has two names.
    """
    pairs = _pairs_in(Path(labels)) if isinstance(labels, str | os.PathLike) else _pairs_of(labels)
    table: dict[str, list[int]] = {}
    names: dict[int, str] = {}
    for number, name in pairs:
        if number <= 0 or not name:
            raise ValueError(
                f"labels={labels} has the number {number} with the name {name!r}; numbers are integers above 0, each "
                "with a name (0 is what no region covers)"
            )
        if names.setdefault(number, name) != name:
            raise ValueError(
                f"labels={labels} names {number} both {names[number]} and {name}; give each number one name"
            )
        table.setdefault(name, []).append(number)
    if not table:
        raise ValueError(f"labels={labels} names no number; give a table with the columns number and name")
    return table


def _pairs_in(file: Path) -> list[tuple[int, str]]:
    if not file.is_file():
        raise FileNotFoundError(f"labels {file} does not exist; it must be a CSV file with the columns number and name")
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            delimiter = "\t" if "\t" in stream.readline() else ","
            stream.seek(0)
            header, *rows = [[cell.strip() for cell in row] for row in csv.reader(stream, delimiter=delimiter) if row]
        places = [[heading.lower() for heading in header].index(heading) for heading in _HEADINGS]
        return [(int(row[places[0]]), row[places[1]]) for row in rows]
    except (ValueError, IndexError, csv.Error) as error:
        raise ValueError(
            f"labels {file} is not a table of numbers and names ({error}); its first line must be number,name, and "
            "each other line a number and the name of its region, in UTF-8"
        ) from error


def _pairs_of(labels: Mapping[str, int | Sequence[int]]) -> list[tuple[int, str]]:
    return [
        (int(number), str(name))
        for name, numbers in labels.items()
        for number in (numbers if isinstance(numbers, Sequence) else [numbers])
    ]


def labelled_cases(
    dataset_dir: str | os.PathLike[str], label_name: str, brain: str, modalities: Sequence[str]
) -> list[dict[str, Any]]:
    """List the label maps of a folder that brains are drawn from.

    Args:
        dataset_dir: Folder in one of BraTS's layouts.
        label_name: Last part of the names of label files.
        brain: What says where the brain is: ``"image"``, the first contrast, or ``"labels"``, which then cover it.
        modalities: Names of the contrasts.
    Returns:
        One item per case: its ``subject``, and the files that hold the brain, as ``image``, and the ``label``; where
        labels cover the brain, their file is the ``image``.
    Raises:
        FileNotFoundError, NotADirectoryError, ValueError: See :func:`~monai_idm.data.brats_datalist`; and if ``brain``
            is neither.
    """
    if brain not in _BRAINS:
        raise ValueError(f"brain={brain!r}; choose {' or '.join(_BRAINS)}")
    if brain == "image":
        return brats_datalist(dataset_dir, modalities[:1], labels=True, label_name=label_name)
    items = brats_datalist(dataset_dir, (), labels=True, label_name=label_name)
    return [{"subject": item["subject"], "image": item["label"]} for item in items]


class LabelToChannelsd(MapTransform):
    """Turn a label map into one channel for each region, 1 inside and 0 outside.

    Args:
        keys: Keys of the label maps, ``(1, *spatial)``; each becomes ``(regions, *spatial)``, float32.
        labels: The numbers of each region, see :func:`read_label_table`.
    Raises:
        ValueError: When called, if a label map has several channels, numbers that no region has, or no region at all.
    """

    def __init__(self, keys: KeysCollection, labels: Mapping[str, Sequence[int]]) -> None:
        super().__init__(keys)
        self.labels = {name: list(numbers) for name, numbers in labels.items()}

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            d[key] = convert_to_dst_type(self._channels(d, as_tensor(d[key])), d[key], dtype=torch.float32)[0]
        return d

    def _channels(self, data: Mapping[Hashable, Any], label: Tensor) -> Tensor:
        name = str(data.get("subject", "the case"))
        if len(label) != 1:
            raise ValueError(f"the label of {name} has the shape {tuple(label.shape)}; it must have one channel")
        plain = label.as_subclass(Tensor)
        numbers = plain.round()
        known = plain.new_tensor([0, *(number for numbers in self.labels.values() for number in numbers)])
        strange = plain[((plain - numbers).abs() > ROUNDING) | ~torch.isin(numbers, known)].unique().tolist()
        if strange:
            more = f" and {len(strange) - _NAMED} more" if len(strange) > _NAMED else ""
            raise ValueError(
                f"the label of {name} holds {', '.join(f'{n:g}' for n in strange[:_NAMED])}{more}, which the table of "
                f"labels does not name; it names {', '.join(self.labels)}: add the numbers to it, or correct the file"
            )
        if not numbers.any():
            raise ValueError(f"the label of {name} is 0 everywhere; there is nothing to draw a brain from")
        return torch.cat([torch.isin(numbers, numbers.new_tensor(of)) for of in self.labels.values()])
