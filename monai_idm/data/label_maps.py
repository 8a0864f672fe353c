"""The meaning of the label numbers in each collection, and checks that a folder has the map it is given.

The same number means different things: 4 is enhancing tumour in BraTS 2020, a resection cavity in BraTS 2024 and oedema
in its paediatric cases. Numbers alone never prove a map, so the checks also use ``dataset.json`` and the names of the
cases.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

__all__ = [
    "LABEL_MAPS",
    "ROUNDING",
    "LabelMap",
    "contradicted_by_numbers",
    "count_labels",
    "label_numbers",
    "require_label_map",
]

LabelMap = str | Mapping[str, int]
ROUNDING = 1e-3  # largest difference between a label stored as a float and its number

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
# pattern of case names -> the maps that such cases may have
_MAPS_BY_NAME = {
    r"BraTS-GLI-\d+-1\d\d": ("brats2024",),
    r"BraTS-PED-.*": ("brats2023_ped", "brats2024_ped"),
    r"BraTS-(GLI|MEN|MET|SSA)-\d+-\d+": ("brats2023", "brats2024"),
    r"(BraTS|Brats)(18|19|20|2018|2019|2020|2021)_.*": ("brats2020",),
    r"UPENN-GBM-.*|UCSF-PDGM-.*": ("brats2020",),
    r"BRATS_\d+": ("decathlon",),
}
# words in dataset.json -> the part that they name; the first match counts
_PART_BY_WORDS = {
    r"non.?enhanc|necro|\bncr\b|\bnet\b|\bnetc\b": "necrosis",
    r"o?edema|\bed\b|\bsnfh\b": "oedema",
    r"cavity|\brc\b": "cavity",
    r"cyst|\bcc\b": "cyst",
    r"enhanc|\bet\b": "enhancing",
    r"whole|\bwt\b": "whole",
    r"core|\btc\b": "core",
}
_MIN_CASES = 3  # the numbers of fewer cases prove little
_NUMBERS_HINT = "write the numbers out, as in --label_map \"{'necrosis': 1, 'oedema': 2, 'enhancing': 4}\""


def label_numbers(label_map: LabelMap) -> dict[str, int]:
    """The label number of each part.

    Args:
        label_map: A name in ``LABEL_MAPS``, or the numbers themselves.
    Raises:
        ValueError: If the name is unknown, or the numbers are not different integers above 0.
    """
    if isinstance(label_map, str):
        if label_map not in LABEL_MAPS:
            raise ValueError(f"label_map={label_map!r}; choose a map from {', '.join(LABEL_MAPS)}, or {_NUMBERS_HINT}")
        return LABEL_MAPS[label_map]
    numbers = list(label_map.values())
    parts = {part for known in LABEL_MAPS.values() for part in known}
    if not numbers or not {*label_map} <= parts or len({*numbers}) < len(numbers):
        raise ValueError(f"label_map={dict(label_map)}; name different numbers for some of {', '.join(sorted(parts))}")
    if not all(isinstance(n, int) and n > 0 for n in numbers):
        raise ValueError(f"label_map={dict(label_map)}; label numbers are integers above 0")
    return dict(label_map)


def require_label_map(dataset_dir: str | os.PathLike[str], subjects: Iterable[str], label_map: LabelMap) -> None:
    """Refuse a map that the folder's ``dataset.json`` or the names of its cases contradict.

    A map whose numbers the user writes out is not checked.

    Args:
        dataset_dir: Folder of the cases.
        subjects: Names of the cases.
        label_map: See :func:`label_numbers`.
    Raises:
        ValueError: If the map is unknown, or that of another collection.
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
            f"label_map={label_map!r} is {numbers}, but {file} says that {', '.join(wrong)}; give the map of this "
            f"folder{_suggest(name for name, known in LABEL_MAPS.items() if named.items() <= known.items())}"
        )
    if named:
        return  # dataset.json takes precedence over names
    others = [(subject, maps) for subject in subjects if label_map not in (maps := _maps_of(subject) or (label_map,))]
    if others:
        subject, maps = others[0]
        raise ValueError(
            f"label_map={label_map!r} is {numbers}, but {len(others)} cases have names of another collection, such as "
            f"{subject}, where the numbers mean {' or '.join(str(LABEL_MAPS[name]) for name in maps)}; give the map "
            f"of this folder{_suggest(maps)}"
        )


def contradicted_by_numbers(found: Mapping[str, Iterable[float]], label_map: LabelMap) -> str:
    """Why the numbers found in a whole folder cannot be those of a map; empty if they can.

    Either a number exists only in other maps; or neither the user nor the names of cases confirm the map, some of its
    numbers never occur, and those that do are exactly those of another map, with other meanings.

    Args:
        found: Numbers in the label of each subject; those in no map are ignored.
        label_map: See :func:`label_numbers`.
    """
    numbers = label_numbers(label_map)
    map_numbers = {n for known in LABEL_MAPS.values() for n in known.values()}
    counts = Counter(n for labels in found.values() for n in {*labels} if n in map_numbers)
    strange = counts.keys() - {*numbers.values()}
    others = {name: known for name, known in LABEL_MAPS.items() if {*known.values()} == counts.keys()}
    confirmed = not isinstance(label_map, str) or any(label_map in _maps_of(subject) for subject in found)
    unlikely = (
        others
        and len(found) >= _MIN_CASES
        and not confirmed
        and all(any(numbers.get(part) != n for part, n in known.items()) for known in others.values())
    )
    if not strange and not unlikely:
        return ""
    fitting = others or [name for name, known in LABEL_MAPS.items() if counts.keys() <= {*known.values()}]
    occurrences = ", ".join(f"{n:g} in {counts[n]} of {len(found)} cases" for n in sorted(strange or counts))
    return (
        f"label_map={label_map!r} is {numbers}, but the labels hold {'' if strange else 'only '}{occurrences}. A "
        f"folder has one map: give that of this folder{_suggest(fitting)}, or move cases with another map elsewhere"
    )


def count_labels(found: Mapping[str, Iterable[float]], label_map: LabelMap) -> str:
    """Describe in how many labels each part of a map occurs."""
    counts = Counter(n for labels in found.values() for n in {*labels})
    return ", ".join(f"{part} ({n}) in {counts[n]} of {len(found)}" for part, n in label_numbers(label_map).items())


def _suggest(maps: Iterable[str]) -> str:
    return "".join(f", --label_map {name}" for name in maps) + f", or {_NUMBERS_HINT}"


def _maps_of(subject: str) -> tuple[str, ...]:
    """The maps that a case with this name may have; empty if the name belongs to no known collection."""
    return next((maps for pattern, maps in _MAPS_BY_NAME.items() if re.fullmatch(pattern, subject)), ())


def _named_numbers(file: Path) -> dict[str, int]:
    """The number of each part that a ``dataset.json`` names: ``{"1": "edema"}``, or nnU-Net's ``{"edema": 1}``."""
    try:
        labels = json.loads(file.read_text(encoding="utf-8"))["labels"].items()
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
    by_name = {str(value): [key] for key, value in labels if str(key).isdigit()}
    by_name |= {key: value if isinstance(value, list) else [value] for key, value in labels if not str(key).isdigit()}
    numbers: dict[str, set[int]] = {}
    for name, values in by_name.items():
        part = next((part for words, part in _PART_BY_WORDS.items() if re.search(words, name, re.IGNORECASE)), None)
        if part is not None and all(str(n).isdigit() for n in values):
            numbers[part] = {int(n) for n in values} - {0}
    # nnU-Net's regions contain each other: a part is what a region has besides the next smaller one
    for part, whole, inner in (("oedema", "whole", "core"), ("necrosis", "core", "enhancing")):
        if {whole, inner} <= numbers.keys():
            numbers.setdefault(part, numbers[whole] - numbers[inner])
    return {part: min(n) for part, n in numbers.items() if len(n) == 1 and part not in ("whole", "core")}
