"""Reads the class of each case, such as its tumour's grade, from a CSV file."""

from __future__ import annotations

import os
from collections.abc import Sequence

from monai_idm.data.table import read_column

__all__ = ["read_class_labels", "sampled_classes"]


def read_class_labels(
    file: str | os.PathLike[str], classes: Sequence[str], columns: Sequence[str] = ("subject", "class")
) -> dict[str, int]:
    """Read the class of each subject, as a number.

    Args:
        file: A CSV file with a header; BraTS 2020's name_mapping.csv is one.
        classes: Names of the classes, in the order of their numbers.
        columns: Headings of the subjects and of their classes; in that file ``("BraTS_2020_subject_ID", "Grade")``.
    Raises:
        FileNotFoundError: If the file is missing.
        ValueError: If a column is missing or names no subject (NA in every row), a class is not in ``classes``, or a
            subject has several classes.
    """
    names = read_column(file, columns, "classes", "class_file", "class_columns")
    unknown = sorted({str(name) for name in names.values()} - set(classes))
    if unknown:
        raise ValueError(f"{file} holds the classes {unknown}, which are not in classes={list(classes)}; name them all")
    return {subject: list(classes).index(name) for subject, name in names.items()}


def sampled_classes(name: str | None, classes: Sequence[str] | None) -> list[int]:
    """The class numbers that samples get in turn; empty if there are no classes.

    Args:
        name: Name of the only class to sample; None: all classes.
        classes: Names of all classes, in the order of their numbers; None if there are none.
    Raises:
        ValueError: If ``name`` is not one of ``classes``.
    """
    numbers = {known: number for number, known in enumerate(classes or ())}
    if name is None:
        return [*numbers.values()]
    if name not in numbers:
        raise ValueError(
            f"class_name={name!r} is not one of classes={classes}, which the network was trained with; choose one of "
            "these, or leave it out"
        )
    return [numbers[name]]
