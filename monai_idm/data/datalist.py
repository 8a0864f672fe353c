r"""Splits cases into training, validation and test, by patient, and writes the split down.

Of :math:`n \ge 3` patients and fractions :math:`(f_1, f_2, f_3)`, validation gets :math:`\max(1, [n f_2])`,
test :math:`\max(1, [n f_3])`, training the rest; where that leaves training nothing, the others give way.
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
    patients, validation is also the test set; with one, all three parts are the same. Both are logged.

    Args:
        items: Dicts with the key ``"subject"``, and ``"patient"`` where that is known.
        fractions: Of the patients, for training, validation and test; each above 0, 1 in sum.
        seed: Seed of the shuffle. The split depends on it and on the patients' names only.
    Returns:
        ``{"training": [...], "validation": [...], "test": [...]}``, each in the order of ``items``.
    Raises:
        ValueError: If there are no items, or the fractions break their rule.
    """
    if len(fractions) != 3 or min(fractions) <= 0 or abs(sum(fractions) - 1) > 1e-6:
        raise ValueError(
            f"fractions {tuple(fractions)} must be three numbers above 0 that sum to 1, "
            "for training, validation and test: for instance (0.8, 0.1, 0.1)"
        )
    patients = sorted({patient(item) for item in items})
    if not patients:
        raise ValueError("no items to split; a split needs at least one case: look at what brats_datalist gives")
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
    ``"patient"`` of each item, and ``modalities, fractions, seed, dataset_dir`` and, with labels, ``label_map``. It
    replaces an older one in one step, and its folder is made. In distributed runs the first process writes it.

    Args:
        dataset_dir: Folder of the cases.
        file: The JSON file to write.
        modalities: Contrasts of every case.
        options: Further arguments of :func:`find_datalist`.
    Returns:
        What the file says, with absolute paths.
    Raises:
        FileNotFoundError, NotADirectoryError, ValueError: As :func:`find_datalist` does.
    """
    content = find_datalist(dataset_dir, modalities, **options)
    root = _absolute(dataset_dir)
    if idist.get_rank() == 0:
        relative = _with_paths(
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
    problems: Mapping[str, str] | None = None,
    datalist_file: str | os.PathLike | None = None,
    allow_links: bool = False,
    patients_file: str | os.PathLike | None = None,
    label_map: LabelMap | None = None,
    split_by: Callable[[list[dict[str, Any]]], dict[str, list[dict[str, Any]]]] | None = None,
) -> dict[str, Any]:
    """Find the cases of a BraTS folder and split them; nothing is written.

    Args:
        dataset_dir: Folder of the cases, as in :func:`monai_idm.data.brats_datalist`.
        modalities: As in :func:`monai_idm.data.brats_datalist`.
        fractions: As in :func:`split_by_subject`.
        seed: As in :func:`split_by_subject`.
        labels: As in :func:`monai_idm.data.brats_datalist`.
        class_labels: Each subject's class, which its item gets as ``"class_label"``.
        problems: Subjects to leave out, and why.
        datalist_file: A file that :func:`prepare_datalist` has written: its split is taken as it is.
        allow_links: Whether symbolic links may lead out of ``dataset_dir``.
        patients_file: A table of the subjects' patients, as in :func:`monai_idm.data.read_patients`; it overrules what
            names and ``datalist_file`` say.
        label_map: What the numbers of the labels mean, a name in ``LABEL_MAPS`` or a map; every case then needs one.
        split_by: Makes the parts of the cases; None: :func:`split_by_subject`.
    Returns:
        The parts of the split, with absolute paths, and the settings.
    Raises:
        FileNotFoundError, NotADirectoryError, ValueError: As the two functions do.
        ValueError: If ``modalities`` is a string, a subject has no class or no line in ``patients_file``, a volume is
            not in the folder, the folder's labels have another map, or ``datalist_file`` is of something else, lists a
            case twice, or tests a patient that it trains on.
    """
    if isinstance(modalities, str):
        raise ValueError(f"modalities={modalities!r} is a word; give a list, as --modalities \"['{modalities}']\"")
    root = _absolute(dataset_dir)
    labels = labels or label_map is not None
    if datalist_file is None:
        items = with_patients(brats_datalist(dataset_dir, modalities, labels, problems or ()), patients_file)
        split = split_by_subject(items, fractions, seed) if split_by is None else split_by(items)
    else:
        split = _read(Path(datalist_file), root, list(modalities), labels, patients_file, label_map)
    _check_inside(split, root, allow_links)
    if label_map is not None:
        subjects = {item["subject"]: None for part in split.values() for item in part}  # each once, in order
        require_label_map(dataset_dir, subjects, label_map)
    if class_labels is not None:
        for name, part in split.items():
            split[name] = [item | {"class_label": _class(item["subject"], class_labels)} for item in part]
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


def _read(
    file: Path,
    root: str,
    modalities: list[str],
    labels: bool,
    patients_file: str | os.PathLike | None,
    label_map: LabelMap | None,
) -> dict[str, Any]:
    """The split in a file, with absolute paths."""
    if not file.is_file():
        raise FileNotFoundError(f"no datalist at {file}; python -m idm_bundle prepare writes one")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        sound = all(_is_item(item, content["modalities"]) for part in PARTS for item in content[part])
    except (ValueError, TypeError, KeyError):
        sound = False
    if not sound:
        raise ValueError(f"{file} is no datalist of python -m idm_bundle prepare, or is damaged; let it write one")
    if content["modalities"] != modalities:
        raise ValueError(
            f"{file} is of the modalities {content['modalities']}, and {modalities} are asked for; prepare it with them"
        )
    content |= {part: with_patients(content[part], patients_file) for part in PARTS}
    _require_separate(file, content)
    items = [item for part in PARTS for item in content[part]]
    UniqueStems().require(item["subject"] for item in items)
    if labels and not all("label" in item for item in items):
        raise ValueError(f"{file} has no labels; prepare it with --label_map")
    if None not in (label_map, content.get("label_map")) and content["label_map"] != label_map:
        raise ValueError(
            f"{file} was prepared with label_map={content['label_map']!r}, and label_map={label_map!r} is given; give "
            "the same, or prepare the folder again"
        )
    return _with_paths({part: content[part] for part in PARTS}, lambda p: os.path.normpath(os.path.join(root, p)))


def _require_separate(file: Path, split: dict[str, Any]) -> None:
    """Refuse to judge a network by patients that it was trained on; the split of a single patient warns itself."""
    for part in PARTS:
        counted = Counter(item["subject"] for item in split[part])
        if twice := [subject for subject, times in counted.items() if times > 1]:
            raise ValueError(f"{file} lists {', '.join(twice[:5])} more than once in {part}; list every case once")
    training, validation, test = ({patient(item) for item in split[part]} for part in PARTS)
    shared = sorted(training & (validation | test))
    if shared and len(training | validation | test) > 1:
        raise ValueError(
            f"{file} has {', '.join(shared[:5])} in training and in validation or test: scores would be too good; "
            "list each patient on one side, or let python -m idm_bundle prepare write the split"
        )


def _check_inside(split: Mapping[str, list[dict[str, Any]]], root: str, allow_links: bool) -> None:
    """Refuse paths that lead out of the folder, whatever way."""
    real = os.path.realpath(root)

    def check(path: str) -> str:
        if os.path.commonpath([root, path]) != root:
            raise ValueError(f"{path} is not in dataset_dir {root}; give the folder that the datalist was made of")
        if not allow_links and os.path.commonpath([real, target := os.path.realpath(path)]) != real:
            raise ValueError(
                f"{path} is a link out of dataset_dir, to {target}; where that is meant, add --allow_links true"
            )
        return path

    _with_paths(split, check)


def _is_item(item: Any, modalities: Sequence[str]) -> bool:
    """Whether this is a case as :func:`~monai_idm.data.brats_datalist` gives it."""
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


def _class(subject: str, class_labels: Mapping[str, int]) -> int:
    label = look_up(subject, class_labels)
    if label is None:
        raise ValueError(
            f"{subject} has no class, {len(class_labels)} other subjects have one; give it a line in class_file, or "
            "the column with such names as class_columns"
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


def _with_paths(
    split: Mapping[str, list[dict[str, Any]]], change: Callable[[str], str]
) -> dict[str, list[dict[str, Any]]]:
    def changed(item: dict[str, Any]) -> dict[str, Any]:
        paths = {key: item[key] for key in _PATHS if key in item}
        return item | {k: [change(p) for p in v] if isinstance(v, list) else change(v) for k, v in paths.items()}

    return {name: [changed(item) for item in part] for name, part in split.items()}


def _absolute(folder: str | os.PathLike) -> str:
    return os.path.abspath(Path(folder).expanduser())
