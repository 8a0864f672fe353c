"""What class each case has, such as its tumour's grade, from a CSV file."""

from __future__ import annotations

import os
from collections.abc import Sequence

from monai_idm.data.table import read_column

__all__ = ["class_label", "read_class_labels"]


def read_class_labels(
    file: str | os.PathLike[str], classes: Sequence[str], columns: Sequence[str] = ("subject", "class")
) -> dict[str, int]:
    """The number of each subject's class.

    Args:
        file: A CSV file with a header; BraTS 2020's name_mapping.csv is one.
        classes: Names of the classes, in the order of their numbers.
        columns: Headings of the subject and of its class, for that file ``("BraTS_2020_subject_ID", "Grade")``.
    Raises:
        FileNotFoundError: If the file is missing.
        ValueError: If a column is missing or names no subject (NA in every row), a class is none of ``classes``, or a
            subject has several.
    """
    found = read_column(file, columns, "classes", "class_file", "class_columns")
    unknown = sorted({str(name) for name in found.values()} - set(classes))
    if unknown:
        raise ValueError(f"{file} holds the classes {unknown}, and classes are {list(classes)}; name them all")
    return {subject: list(classes).index(name) for subject, name in found.items()}


def class_label(name: str | None, classes: Sequence[str] | None) -> int | None:
    """The number of a class, or None where there are no classes.

    Args:
        name: Of the class.
        classes: All names, in the order of their numbers.
    Raises:
        ValueError: If there are classes, and the name is none of them, or the other way round.
    """
    if name is None and not classes:
        return None
    if name is None or classes is None or name not in classes:
        raise ValueError(f"class_name={name!r} is none of classes={classes}; give both as in training, or neither")
    return list(classes).index(name)
