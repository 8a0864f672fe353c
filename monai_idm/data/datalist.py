r"""Splits cases into training, validation and test, by patient, and writes the split to a file.

Of :math:`n \ge 3` patients and fractions :math:`(f_1, f_2, f_3)`, validation gets :math:`\max(1, [n f_2])`,
test :math:`\max(1, [n f_3])`, training the rest; if none would be left for training, the other two shrink.
"""

import json
import logging
import os
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ignite.distributed as idist

from monai_idm.atomic_file import write_json
from monai_idm.data.brats import brats_datalist
from monai_idm.data.conditions import VALUES, with_conditions
from monai_idm.data.label_maps import LabelMap, require_label_map
from monai_idm.data.patients import count_patients, patient, with_patients
from monai_idm.data.table import look_up
from monai_idm.file_stem import UniqueStems

__all__ = ["PARTS", "find_datalist", "prepare_datalist", "split_by_subject"]

PARTS = ("training", "validation", "test")
_PATHS = ("image", "label")

_logger = logging.getLogger(__name__)


def split_by_subject(
    items: Sequence[dict[str, Any]], fractions: Sequence[float] = (0.8, 0.1, 0.1), seed: int = 0
) -> dict[str, list[dict[str, Any]]]:
    """Split items so that no patient is in two parts.

    The scans of one patient (:func:`~monai_idm.data.patients.patient`) stay together. With two
    patients, validation is also the test set; with one, all three parts are the same. Both cases log a warning.

    Args:
        items: Dicts with the key ``"subject"``, and ``"patient"`` if that is known.
        fractions: Fractions of the patients for training, validation and test, each above 0, with a sum of 1.
        seed: Seed of the shuffle. The split depends on it and on the patients' names only.
    Returns:
        ``{"training": [...], "validation": [...], "test": [...]}``, each in the order of ``items``.
    Raises:
        ValueError: If there are no items, or the fractions are invalid.
    """
    if len(fractions) != 3 or min(fractions) <= 0 or abs(sum(fractions) - 1) > 1e-6:
        raise ValueError(
            f"fractions {tuple(fractions)} must be three numbers above 0 that sum to 1, "
            "for training, validation and test: for instance (0.8, 0.1, 0.1)"
        )
    patients = sorted({patient(item) for item in items})
    if not patients:
        raise ValueError("no items to split; a split needs at least one case: check what brats_datalist returns")
    random.Random(seed).shuffle(patients)
    parts = map(set, _parts(patients, fractions))
    return {name: [item for item in items if patient(item) in part] for name, part in zip(PARTS, parts, strict=True)}


def prepare_datalist(
    dataset_dir: str | os.PathLike,
    file: str | os.PathLike,
    modalities: Sequence[str] = ("t1", "t2"),
    **options: Any,
) -> dict[str, Any]:
    """Find the cases of a BraTS folder, split them, and write the split to a JSON file.

    The file has the Decathlon's keys ``training, validation, test``, with paths relative to ``dataset_dir`` and the
    ``"patient"`` of each item, and the settings ``modalities, fractions, seed, dataset_dir`` and, if given,
    ``label_map`` and ``problems``. It replaces an older file atomically; its folder is created if needed. In
    distributed runs only the first process writes it.

    Args:
        dataset_dir: Folder of the cases.
        file: The JSON file to write.
        modalities: Contrasts of every case.
        options: Further arguments of :func:`find_datalist`.
    Returns:
        The content of the file, with absolute paths.
    Raises:
        FileNotFoundError, NotADirectoryError, ValueError: See :func:`find_datalist`.
    """
    content = find_datalist(dataset_dir, modalities, **options)
    root = _absolute(dataset_dir)
    if idist.get_rank() == 0:
        relative = _map_paths(
            {name: content[name] for name in PARTS}, lambda p: Path(os.path.relpath(p, root)).as_posix()
        )
        write_json(Path(file), content | relative)
        parts = ", ".join(f"{len(content[name])} {name}" for name in PARTS)
        _logger.info("%s: %s; %s", file, parts, count_patients([item for part in PARTS for item in content[part]]))
    idist.barrier()  # from here on all processes may read it
    return content


def find_datalist(
    dataset_dir: str | os.PathLike,
    modalities: Sequence[str] = ("t1", "t2"),
    fractions: Sequence[float] = (0.8, 0.1, 0.1),
    seed: int = 0,
    labels: bool = False,
    class_labels: Mapping[str, int] | None = None,
    conditions: Mapping[str, Mapping[str, str]] | None = None,
    problems: Mapping[str, str] | None = None,
    datalist_file: str | os.PathLike | None = None,
    allow_links: bool = False,
    patients_file: str | os.PathLike | None = None,
    label_map: LabelMap | None = None,
    label_name: str | None = None,
    split_by: Callable[[list[dict[str, Any]]], dict[str, list[dict[str, Any]]]] | None = None,
) -> dict[str, Any]:
    """Find the cases of a BraTS folder and split them, without writing anything.

    Args:
        dataset_dir: Folder of the cases, see :func:`monai_idm.data.brats_datalist`.
        modalities: Contrasts of every case, see :func:`monai_idm.data.brats_datalist`.
        fractions: Fractions of the patients for each part, see :func:`split_by_subject`.
        seed: Seed of the split, see :func:`split_by_subject`.
        labels: Whether to list each case's segmentation too, see :func:`monai_idm.data.brats_datalist`.
        class_labels: Class of each subject, added to its item as ``"class_label"``.
        conditions: Cells that describe each subject, by heading, added to its item as ``"condition_values"``; a few
            subjects may have none.
        problems: Subjects to leave out, each with the reason.
        datalist_file: A file written by :func:`prepare_datalist`, whose split is used unchanged.
        allow_links: Whether symbolic links may lead out of ``dataset_dir``.
        patients_file: A table of the subjects' patients, see :func:`monai_idm.data.read_patients`; it overrides names
            and ``datalist_file``.
        label_map: Meaning of the label numbers: a name in ``LABEL_MAPS`` or a map; every case then needs a label.
        label_name: Last part of the names of label files, if the cases' labels are listed without a map; None: they are
            called ``seg``.
        split_by: Function that splits the items into parts; None: :func:`split_by_subject`.
    Returns:
        The parts of the split, with absolute paths, and the settings.
    Raises:
        FileNotFoundError, NotADirectoryError, ValueError: See :func:`monai_idm.data.brats_datalist` and
            :func:`split_by_subject`.
        ValueError: If ``modalities`` is a string, a subject has no class or no line in ``patients_file``, most have no
            ``conditions``, a volume is not in the folder, the folder's labels have another map, or ``datalist_file``
            does not fit the other arguments, lists a case twice, or has a patient of its training part in another part.
    """
    if isinstance(modalities, str):
        raise ValueError(f"modalities={modalities!r} is a string; give a list, as in --modalities \"['{modalities}']\"")
    root = _absolute(dataset_dir)
    labels = labels or label_map is not None or label_name is not None
    if datalist_file is None:
        found = brats_datalist(dataset_dir, modalities, labels, problems or (), label_name or "seg")
        items = with_patients(found, patients_file)
        split = split_by_subject(items, fractions, seed) if split_by is None else split_by(items)
    else:
        split = _read_split(Path(datalist_file), root, list(modalities), labels, patients_file, label_map)
    _check_inside(split, root, allow_links)
    if label_map is not None:
        subjects = {item["subject"]: None for part in split.values() for item in part}  # no duplicates, in order
        require_label_map(dataset_dir, subjects, label_map)
    if class_labels is not None:
        for name, part in split.items():
            split[name] = [item | {"class_label": _class_of(item["subject"], class_labels)} for item in part]
    if conditions is not None:
        values = with_conditions([item for part in split.values() for item in part], conditions)
        split = {name: [item | {VALUES: values[item["subject"]]} for item in part] for name, part in split.items()}
    settings: dict[str, Any] = {
        "modalities": list(modalities),
        "fractions": list(fractions),
        "seed": seed,
        "dataset_dir": str(dataset_dir),
    }
    if label_map is not None:
        settings["label_map"] = label_map if isinstance(label_map, str) else dict(label_map)
    if problems:
        settings["problems"] = dict(problems)
    return settings | split


def _read_split(
    file: Path,
    root: str,
    modalities: list[str],
    labels: bool,
    patients_file: str | os.PathLike | None,
    label_map: LabelMap | None,
) -> dict[str, Any]:
    """Read the split from a datalist, with absolute paths, and check that it fits the other arguments."""
    if not file.is_file():
        raise FileNotFoundError(f"no datalist at {file}; python -m idm_bundle prepare writes one")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        valid = all(_is_item(item, content["modalities"]) for part in PARTS for item in content[part])
    except (ValueError, TypeError, KeyError):
        valid = False
    if not valid:
        raise ValueError(
            f"{file} is not a datalist of python -m idm_bundle prepare, or is damaged; let prepare write one"
        )
    if content["modalities"] != modalities:
        raise ValueError(
            f"{file} lists the modalities {content['modalities']}, but {modalities} are requested; prepare "
            "one with these"
        )
    content |= {part: with_patients(content[part], patients_file) for part in PARTS}
    for part in PARTS:  # conditions are those of the table that is given now
        content[part] = [{key: value for key, value in item.items() if key != VALUES} for item in content[part]]
    _require_separate(file, content)
    items = [item for part in PARTS for item in content[part]]
    UniqueStems().require(item["subject"] for item in items)
    if labels and not all("label" in item for item in items):
        raise ValueError(f"{file} has no labels; prepare it with --label_map, or --label_name")
    if None not in (label_map, content.get("label_map")) and content["label_map"] != label_map:
        raise ValueError(
            f"{file} was prepared with label_map={content['label_map']!r}, but label_map={label_map!r} is given; give "
            "the same, or prepare the folder again"
        )
    return _map_paths({part: content[part] for part in PARTS}, lambda p: os.path.normpath(os.path.join(root, p)))


def _require_separate(file: Path, split: dict[str, Any]) -> None:
    """Refuse a split that evaluates a network on its training patients; with one patient, :func:`_parts` warns."""
    for part in PARTS:
        counted = Counter(item["subject"] for item in split[part])
        if repeated := [subject for subject, times in counted.items() if times > 1]:
            raise ValueError(f"{file} lists {', '.join(repeated[:5])} more than once in {part}; list every case once")
    training, validation, test = ({patient(item) for item in split[part]} for part in PARTS)
    shared = sorted(training & (validation | test))
    if shared and len(training | validation | test) > 1:
        raise ValueError(
            f"{file} has {', '.join(shared[:5])} in training and in validation or test: scores would be too good; "
            "list each patient on one side, or let python -m idm_bundle prepare write the split"
        )


def _check_inside(split: Mapping[str, list[dict[str, Any]]], root: str, allow_links: bool) -> None:
    """Refuse paths that lead out of the folder, directly or by a link."""
    real = os.path.realpath(root)

    def check(path: str) -> str:
        if os.path.commonpath([root, path]) != root:
            raise ValueError(f"{path} is not in dataset_dir {root}; give the folder that the datalist was made from")
        if not allow_links and os.path.commonpath([real, target := os.path.realpath(path)]) != real:
            raise ValueError(
                f"{path} is a link out of dataset_dir, to {target}; if that is intended, add --allow_links true"
            )
        return path

    _map_paths(split, check)


def _is_item(item: Any, modalities: Sequence[str]) -> bool:
    """Whether this is an item as :func:`~monai_idm.data.brats_datalist` returns it."""
    return (
        isinstance(item, dict)
        and isinstance(item["subject"], str)
        and isinstance(item.get("patient", ""), str)
        and isinstance(item["image"], list)
        and len(item["image"]) == len(modalities)
        and all(isinstance(path, str) for path in item["image"])
        and isinstance(item.get("label", ""), str)
        and all(isinstance(channel, int) for channel in item.get("channels", []))
    )


def _class_of(subject: str, class_labels: Mapping[str, int]) -> int:
    label = look_up(subject, class_labels)
    if label is None:
        raise ValueError(
            f"{subject} has no class, {len(class_labels)} other subjects have one; give it a line in class_file, or "
            "name the column with such subjects in class_columns"
        )
    return label


def _parts(patients: list[str], fractions: Sequence[float]) -> tuple[list[str], list[str], list[str]]:
    n = len(patients)
    if n == 1:
        _logger.warning(
            "ONE patient only: %s is training, validation and test set alike, so no score says anything "
            "about other patients",
            patients[0],
        )
        return patients, patients, patients
    if n == 2:
        _logger.warning("two patients only: the validation set, %s, is also the test set", patients[1])
        return patients[:1], patients[1:], patients[1:]
    validation = min(max(1, round(n * fractions[1])), n - 2)
    test = min(max(1, round(n * fractions[2])), n - 1 - validation)
    training = n - validation - test
    return patients[:training], patients[training : training + validation], patients[training + validation :]


def _map_paths(
    split: Mapping[str, list[dict[str, Any]]], change: Callable[[str], str]
) -> dict[str, list[dict[str, Any]]]:
    """The same split with every path changed."""

    def change_item(item: dict[str, Any]) -> dict[str, Any]:
        paths = {key: item[key] for key in _PATHS if key in item}
        return item | {k: [change(p) for p in v] if isinstance(v, list) else change(v) for k, v in paths.items()}

    return {name: [change_item(item) for item in part] for name, part in split.items()}


def _absolute(folder: str | os.PathLike) -> str:
    return os.path.abspath(Path(folder).expanduser())
