"""What the numbers of a label mean in each collection, and whether that can be what a folder's numbers mean.

The same number means different things: 4 is enhancing tumour in BraTS 2020, a resection cavity in BraTS 2024 and oedema
in its paediatric cases. Numbers alone never prove a map, so what names it is looked at too: ``dataset.json``, and the
names of the cases.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

__all__ = ["LABEL_MAPS", "LabelMap", "contradicted_by_numbers", "count_labels", "label_numbers", "require_label_map"]

LabelMap = str | Mapping[str, int]

# what each collection's numbers mean; 0 is everything else
LABEL_MAPS: dict[str, dict[str, int]] = {
    "brats2020": {"necrosis": 1, "oedema": 2, "enhancing": 4},  # 2018 to 2021
    "brats2023": {"necrosis": 1, "oedema": 2, "enhancing": 3},  # GLI, MEN, MET, SSA
    "brats2023_ped": {"necrosis": 1, "oedema": 2, "enhancing": 3},
    "brats2024": {"necrosis": 1, "oedema": 2, "enhancing": 3, "cavity": 4},  # GLI after treatment; MET from 2025 on
    "brats2024_ped": {"enhancing": 1, "necrosis": 2, "cyst": 3, "oedema": 4},
    "decathlon": {"oedema": 1, "necrosis": 2, "enhancing": 3},
    "lesion": {"lesion": 1},  # one kind of lesion, as in multiple sclerosis
}
# names of cases -> the maps that they may have
_OF_NAMES = {
    r"BraTS-GLI-\d+-1\d\d": ("brats2024",),
    r"BraTS-PED-.*": ("brats2023_ped", "brats2024_ped"),
    r"BraTS-(GLI|MEN|MET|SSA)-\d+-\d+": ("brats2023", "brats2024"),
    r"(BraTS|Brats)(18|19|20|2018|2019|2020|2021)_.*": ("brats2020",),
    r"UPENN-GBM-.*|UCSF-PDGM-.*": ("brats2020",),
    r"BRATS_\d+": ("decathlon",),
}
# words in dataset.json, the first that fits -> the part
_PARTS = {
    r"non.?enhanc|necro|\bncr\b|\bnet\b|\bnetc\b": "necrosis",
    r"o?edema|\bed\b|\bsnfh\b": "oedema",
    r"cavity|\brc\b": "cavity",
    r"cyst|\bcc\b": "cyst",
    r"enhanc|\bet\b": "enhancing",
    r"whole|\bwt\b": "whole",
    r"core|\btc\b": "core",
}
_ENOUGH = 3  # cases; the numbers of fewer say little
_OWN = "write the numbers out, as --label_map \"{'necrosis': 1, 'oedema': 2, 'enhancing': 4}\""


def label_numbers(label_map: LabelMap) -> dict[str, int]:
    """The number of each part.

    Args:
        label_map: A name in ``LABEL_MAPS``, or the numbers themselves.
    Raises:
        ValueError: If the name is unknown, or the numbers are not different integers above 0.
    """
    if isinstance(label_map, str):
        if label_map not in LABEL_MAPS:
            raise ValueError(f"label_map={label_map!r}; choose a map from {', '.join(LABEL_MAPS)}, or {_OWN}")
        return LABEL_MAPS[label_map]
    numbers = list(label_map.values())
    parts = {part for known in LABEL_MAPS.values() for part in known}
    if not numbers or not {*label_map} <= parts or len({*numbers}) < len(numbers):
        raise ValueError(f"label_map={dict(label_map)}; name different numbers for some of {', '.join(sorted(parts))}")
    if not all(isinstance(n, int) and n > 0 for n in numbers):
        raise ValueError(f"label_map={dict(label_map)}; numbers of labels are integers above 0")
    return dict(label_map)


def require_label_map(dataset_dir: str | os.PathLike[str], subjects: Iterable[str], label_map: LabelMap) -> None:
    """Refuse a map that the folder's ``dataset.json`` or the names of its cases contradict.

    A map that the user writes out is believed.

    Args:
        dataset_dir: Folder of the cases.
        subjects: Their names.
        label_map: As for :func:`label_numbers`.
    Raises:
        ValueError: If the map is unknown, or another collection's.
    """
    numbers = label_numbers(label_map)
    if not isinstance(label_map, str):
        return
    file = Path(dataset_dir).expanduser() / "dataset.json"
    named = _named_numbers(file)
    meant = {number: part for part, number in numbers.items()}
    wrong = [f"{n} is {part}" for part, n in named.items() if meant.get(n) != part]
    if wrong:
        raise ValueError(
            f"label_map={label_map!r} is {numbers}, and {file} says that {', '.join(wrong)}; give the map of this "
            f"folder{_suggested(name for name, known in LABEL_MAPS.items() if named.items() <= known.items())}"
        )
    if named:
        return  # what is written down goes before what names suggest
    others = [(subject, maps) for subject in subjects if label_map not in (maps := _maps_of(subject) or (label_map,))]
    if others:
        subject, maps = others[0]
        raise ValueError(
            f"label_map={label_map!r} is {numbers}, and {len(others)} cases have names of another collection, as "
            f"{subject}, where the numbers mean {' or '.join(str(LABEL_MAPS[name]) for name in maps)}; give the map "
            f"of this folder{_suggested(maps)}"
        )


def contradicted_by_numbers(found: Mapping[str, Iterable[float]], label_map: LabelMap) -> str:
    """Whether the numbers found in a whole folder can be of a map: what speaks against it, or nothing.

    That is a number that only other maps know; or, where neither the user nor the names of cases say the map, that the
    numbers are all those of another map, in which they mean something else, and some of this one never occur.

    Args:
        found: Numbers in the label of each subject, whatever they are.
        label_map: As for :func:`label_numbers`.
    """
    numbers = label_numbers(label_map)
    of_maps = {n for known in LABEL_MAPS.values() for n in known.values()}
    counts = Counter(n for labels in found.values() for n in {*labels} if n in of_maps)
    strange = counts.keys() - {*numbers.values()}
    others = {name: known for name, known in LABEL_MAPS.items() if {*known.values()} == counts.keys()}
    sure = not isinstance(label_map, str) or any(label_map in _maps_of(subject) for subject in found)
    unlikely = (
        others
        and len(found) >= _ENOUGH
        and not sure
        and all(any(numbers.get(part) != n for part, n in known.items()) for known in others.values())
    )
    if not strange and not unlikely:
        return ""
    fitting = others or [name for name, known in LABEL_MAPS.items() if counts.keys() <= {*known.values()}]
    told = ", ".join(f"{n:g} in {counts[n]} of {len(found)} cases" for n in sorted(strange or counts))
    return (
        f"label_map={label_map!r} is {numbers}, and the labels hold {'' if strange else 'only '}{told}. Numbers "
        f"mean the same in a whole folder: give the map of this one{_suggested(fitting)}, or move cases of another "
        "elsewhere"
    )


def count_labels(found: Mapping[str, Iterable[float]], label_map: LabelMap) -> str:
    """In how many labels each part of a map is, in words."""
    counts = Counter(n for labels in found.values() for n in {*labels})
    return ", ".join(f"{part} ({n}) in {counts[n]} of {len(found)}" for part, n in label_numbers(label_map).items())


def _suggested(maps: Iterable[str]) -> str:
    return "".join(f", --label_map {name}" for name in maps) + f", or {_OWN}"


def _maps_of(subject: str) -> tuple[str, ...]:
    """The maps that a name allows; none where it says nothing."""
    return next((maps for pattern, maps in _OF_NAMES.items() if re.fullmatch(pattern, subject)), ())


def _named_numbers(file: Path) -> dict[str, int]:
    """Part to number, as far as a ``dataset.json`` names them: ``{"1": "edema"}``, or nnU-Net's ``{"edema": 1}``."""
    try:
        labels = json.loads(file.read_text(encoding="utf-8"))["labels"].items()
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
    by_name = {str(value): [key] for key, value in labels if str(key).isdigit()}
    by_name |= {key: value if isinstance(value, list) else [value] for key, value in labels if not str(key).isdigit()}
    numbers: dict[str, set[int]] = {}
    for name, given in by_name.items():
        part = next((part for words, part in _PARTS.items() if re.search(words, name, re.IGNORECASE)), None)
        if part is not None and all(str(n).isdigit() for n in given):
            numbers[part] = {int(n) for n in given} - {0}
    # regions of nnU-Net, each inside the one before: what is left of one without the next
    for part, whole, inner in (("oedema", "whole", "core"), ("necrosis", "core", "enhancing")):
        if {whole, inner} <= numbers.keys():
            numbers.setdefault(part, numbers[whole] - numbers[inner])
    return {part: min(n) for part, n in numbers.items() if len(n) == 1 and part not in ("whole", "core")}
