"""Which cases weights may be judged by: those that their own training set aside, or a folder that it never saw."""

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
_NAMED = 5  # cases in an error
_logger = logging.getLogger(__name__)


def split_of(training: Any, validation: Any, datalist_file: str | os.PathLike[str]) -> dict[str, list[Case]] | None:
    """Subject and patient of every case of a training, for the record of its weights.

    Args:
        training: Dataset that is trained on, whose ``data`` are items; or these items. Those that another tool lists
            without a subject, as MONAI Label does, go by the name of their first file.
        validation: Dataset that chooses the best weights, likewise.
        datalist_file: The datalist that the training has written; where it is of these items, its test split is taken.
    Returns:
        Cases by ``training``, ``validation`` and ``test``; None where a dataset of somebody's own names no cases.
    """
    parts = {"training": training, "validation": validation}
    try:
        split = {part: [_case(item) for item in getattr(of, "data", of)] for part, of in parts.items()}
    except (AttributeError, KeyError, IndexError, TypeError):
        _logger.warning("the training's dataset names no cases: its weights will not know what they were trained on")
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
    """The cases of a folder, by the split of the training that made the weights. Nothing is written.

    Args:
        ckpt_file: The weights. Where older ones do not say their cases, the training's datalist does; where there are
            none yet, or another tool hands them over without a file, also the split that a training would make.
        evaluation_split: The part that is going to be judged, ``"validation"`` or ``"test"``, or ``"all"`` cases.
        dataset_dir: Folder of the cases.
        file: The datalist that the training left in its ``output_dir``.
        datalist_file: A datalist of ``python -m idm_bundle prepare``: its cases and parts are taken.
        options: ``modalities`` and others of :func:`~monai_idm.data.datalist.find_datalist`.
    Returns:
        Items by ``training``, ``validation``, ``test`` and ``all``, of which the part that is judged is not empty; and
        the settings.
    Raises:
        FileNotFoundError, NotADirectoryError, ValueError: As :func:`~monai_idm.data.prepare_datalist` does.
        ValueError: If nobody knows what the weights were trained on, the part to be judged is empty, or it holds cases
            that they were trained on.
    """
    if evaluation_split not in (*PARTS, _ALL):
        raise ValueError(f"evaluation_split={evaluation_split!r}; choose validation, test, or all")
    there = Path(ckpt_file).is_file()
    known = TrainingSplit.of(read_record(ckpt_file)) if there else None
    if known is None and datalist_file is None:
        if Path(file).is_file():
            datalist_file = file
            _logger.warning("the weights do not say what they were trained on; taking the split in %s", datalist_file)
        elif there:
            raise ValueError(
                f"nothing says which cases the weights in {ckpt_file} were trained on: records of it came with version "
                f"0.2, and {file} is not there; give the datalist.json of their training as "
                "--datalist_file"
            )
    if known is None or datalist_file is not None:
        parts = _with_all(find_datalist(dataset_dir, datalist_file=datalist_file, **options))
    else:
        split = {part: partial(known.has, part) for part in PARTS}

        def split_by(items: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
            return {part: [item for item in items if has(item["subject"])] for part, has in split.items()} | {
                _ALL: items
            }

        if evaluation_split != _ALL:  # of others no file needs to be there
            problems = problem_cases(dataset_dir, options["modalities"], options.get("label_map") is not None)
            options["problems"] = {s: why for s, why in problems.items() if not any(has(s) for has in split.values())}
        parts = find_datalist(dataset_dir, split_by=split_by, **options)
    judged = parts[evaluation_split]
    if not judged:
        raise ValueError(
            f"none of the {len(parts[_ALL])} cases in {dataset_dir} was in the {evaluation_split} split of the "
            "weights' training; to judge a folder of other patients as a whole, add --evaluation_split all"
        )
    own = datalist_file is None and evaluation_split != _ALL  # the training's split is what it is, also of one patient
    if known is not None and not own:
        _require_none([item for item in judged if known.trained_on(_case(item))], len(parts[_ALL]))
    elif known is None and evaluation_split == _ALL:
        _require_none(parts["training"], len(parts[_ALL]))
    return parts


def _with_all(parts: dict[str, Any]) -> dict[str, Any]:
    every = {item["subject"]: item for part in PARTS for item in parts[part]}
    return parts | {_ALL: [item for _, item in sorted(every.items())]}


def _require_none(seen: Sequence[Mapping[str, Any]], of: int) -> None:
    if seen:
        named = ", ".join(item["subject"] for item in seen[:_NAMED])
        raise ValueError(
            f"the weights were trained on {len(seen)} of the {of} cases or on other scans of their patients, as on "
            f"{named}: scores would be too good; judge the split of the training (--evaluation_split test, without "
            "--datalist_file), or other patients"
        )


def _case(item: Mapping[str, Any]) -> Case:
    subject = item.get("subject") or _stem(item["image"])
    return subject, patient({**item, "subject": subject})


def _stem(image: str | os.PathLike[str] | Sequence[str]) -> str:
    first = image if isinstance(image, str | os.PathLike) else image[0]
    return Path(first).name.partition(".")[0]
