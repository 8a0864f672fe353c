"""Selects the cases to evaluate weights on: those that their training set aside, or a folder that it never saw."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from monai_idm.checkpoints import Case, TrainingSplit, read_record
from monai_idm.data.brats import problem_cases
from monai_idm.data.datalist import PARTS, find_datalist
from monai_idm.data.patients import patient

__all__ = ["evaluation_datalist", "split_of"]

_ALL = "all"
_NAMED = 5  # cases in an error text
_logger = logging.getLogger(__name__)


def split_of(training: Any, validation: Any, datalist_file: str | os.PathLike[str]) -> dict[str, list[Case]] | None:
    """Subject and patient of every case of a training run, for the record in its weights.

    Args:
        training: Training dataset, whose ``data`` are items; or these items. Items that another tool lists without a
            subject, as MONAI Label does, are named after their first file.
        validation: Dataset that the best weights are chosen on, or its items.
        datalist_file: Datalist written by the run; if its training items are these, its test split is added.
    Returns:
        Cases under ``training``, ``validation`` and ``test``; None if a custom dataset does not name its cases.
    """
    parts = {"training": training, "validation": validation}
    try:
        split = {part: [_case(item) for item in getattr(of, "data", of)] for part, of in parts.items()}
    except (AttributeError, KeyError, IndexError, TypeError):
        _logger.warning(
            "the training dataset does not name its cases: its weights will not record what they were trained on"
        )
        return None
    try:
        written = json.loads(Path(datalist_file).read_text(encoding="utf-8"))
        same = [item["subject"] for item in written["training"]] == [subject for subject, _ in split["training"]]
        test = written["test"] if same else []
    except (OSError, ValueError, KeyError, TypeError):
        test = []
    return {**split, "test": [_case(item) for item in test]}


def evaluation_datalist(
    ckpt_file: str | Path,
    evaluation_split: str,
    dataset_dir: str | os.PathLike[str],
    file: str | os.PathLike[str],
    datalist_file: str | os.PathLike[str] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """List the cases of a folder by the split that the weights were trained with, without writing anything.

    Args:
        ckpt_file: File of the weights, whose record holds the split. Older weights, which have no such record, need
            ``file`` or ``datalist_file``. If there are no weights yet, or another tool passes them without a file, the
            split is that of ``file`` or, without it, the one that a training run would make.
        evaluation_split: Part to evaluate, ``"validation"`` or ``"test"``, or ``"all"`` cases.
        dataset_dir: Folder of the cases.
        file: Datalist that the training run left in its ``output_dir``.
        datalist_file: A datalist of ``python -m idm_bundle prepare``, whose cases and parts are used instead.
        options: ``modalities`` and other arguments of :func:`~monai_idm.data.datalist.find_datalist`.
    Returns:
        Items under ``training``, ``validation``, ``test`` and ``all``, where the part to evaluate is not empty; and the
        settings.
    Raises:
        FileNotFoundError, NotADirectoryError, ValueError: See :func:`~monai_idm.data.prepare_datalist`.
        ValueError: If it is unknown what the weights were trained on, or the part to evaluate is empty or holds cases
            that they were trained on.
    """
    if evaluation_split not in (*PARTS, _ALL):
        raise ValueError(f"evaluation_split={evaluation_split!r}; choose validation, test, or all")
    ckpt_exists = Path(ckpt_file).is_file()
    recorded = TrainingSplit.of(read_record(ckpt_file)) if ckpt_exists else None
    if recorded is None and datalist_file is None:
        if Path(file).is_file():
            datalist_file = file
            _logger.warning("the weights do not record what they were trained on; using the split in %s", datalist_file)
        elif ckpt_exists:
            raise ValueError(
                f"it is unknown which cases the weights in {ckpt_file} were trained on: weights record them since "
                f"version 0.2, and {file} is missing; give the datalist.json of their training as --datalist_file"
            )
    if recorded is None or datalist_file is not None:
        parts = _with_all(find_datalist(dataset_dir, datalist_file=datalist_file, **options))
    else:
        split = {part: partial(recorded.has, part) for part in PARTS}

        def split_by(items: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
            return {part: [item for item in items if has(item["subject"])] for part, has in split.items()} | {
                _ALL: items
            }

        if evaluation_split != _ALL:  # cases outside the split may lack files
            label_name = options.get("label_name")
            labels = options.get("label_map") is not None or label_name is not None
            problems = problem_cases(dataset_dir, options["modalities"], labels, label_name or "seg")
            options["problems"] = {s: why for s, why in problems.items() if not any(has(s) for has in split.values())}
        parts = find_datalist(dataset_dir, split_by=split_by, **options)
    evaluated = parts[evaluation_split]
    if not evaluated:
        raise ValueError(
            f"none of the {len(parts[_ALL])} cases in {dataset_dir} was in the {evaluation_split} split of the "
            "weights' training; to evaluate all of a folder of other patients, add --evaluation_split all"
        )
    # not checked: with one patient, training, validation and test are the same
    uses_training_split = datalist_file is None and evaluation_split != _ALL
    if recorded is not None and not uses_training_split:
        _refuse_seen([item for item in evaluated if recorded.trained_on(_case(item))], len(parts[_ALL]))
    elif recorded is None and evaluation_split == _ALL:
        _refuse_seen(parts["training"], len(parts[_ALL]))
    return parts


def _with_all(parts: dict[str, Any]) -> dict[str, Any]:
    by_subject = {item["subject"]: item for part in PARTS for item in parts[part]}
    return parts | {_ALL: [item for _, item in sorted(by_subject.items())]}


def _refuse_seen(seen: Sequence[Mapping[str, Any]], num_cases: int) -> None:
    if seen:
        named = ", ".join(item["subject"] for item in seen[:_NAMED])
        raise ValueError(
            f"the weights were trained on {len(seen)} of the {num_cases} cases or on other scans of their patients, "
            f"such as {named}: scores would be too good; evaluate the split of the training (--evaluation_split test, "
            "without --datalist_file), or other patients"
        )


def _case(item: Mapping[str, Any]) -> Case:
    subject = item.get("subject") or _stem(item["image"])
    return subject, patient({**item, "subject": subject})


def _stem(image: str | os.PathLike[str] | Sequence[str]) -> str:
    first = image if isinstance(image, str | os.PathLike) else image[0]
    return Path(first).name.partition(".")[0]
