r"""What describes a case in a table, such as age, sex and volumes of regions, as numbers that a network takes.

.. math:: v = (x - \mathrm{mean}) / \mathrm{SD} \quad \text{for numbers}, \qquad v = \pm 1 \quad \text{for words}

Mean and standard deviation are those of the training cases. Of two words, the second in alphabetical order is 1; three
words or more make a value each. What is unknown is NaN.
"""

from __future__ import annotations

import logging
import math
import os
import warnings
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from statistics import fmean, pstdev
from typing import Any

import torch
from monai.transforms import Transform

from monai_idm.data.table import is_missing, look_up, read_columns

__all__ = [
    "EncodeConditionsd",
    "condition_names",
    "describe_conditions",
    "fit_conditions",
    "read_conditions",
    "with_conditions",
]

VALUES = "condition_values"  # an item's cells, as in the table
_MAX_WORDS = 10
_MAX_LISTED = 5  # names in a message

_logger = logging.getLogger(__name__)


def read_conditions(
    file: str | os.PathLike[str] | None, columns: Sequence[Any] | None = None
) -> dict[str, dict[str, str]] | None:
    """Read the cells that describe each case.

    Args:
        file: A CSV or TSV file with a header, whose first column names the cases; None: there is none.
        columns: Headings of the other columns to read; None: all.
    Returns:
        Maps each case to its cells by heading; None without a file.
    Raises:
        FileNotFoundError: If the file is missing.
        ValueError: If it is not such a table, a column is missing, a case has several rows that differ, or there are
            columns without a file.
    """
    if file is None:
        if columns is not None:
            raise ValueError(f"condition_columns={columns!r} without a table; give it with --conditions FILE")
        return None
    return read_columns(file, columns, "conditions", "condition_columns")


def with_conditions(
    items: Sequence[Mapping[str, Any]], table: Mapping[str, Mapping[str, str]]
) -> dict[str, dict[str, str]]:
    """The cells of each case by its subject; they are empty (unknown) for a case without a row, which is a warning.

    Args:
        items: Datalist items.
        table: Cells of each case; see :func:`read_conditions`.
    Raises:
        ValueError: If fewer than half of the cases have a row.
    """
    columns = next(iter(table.values())).keys()
    found = {item["subject"]: look_up(item["subject"], table) for item in items}
    lacking = sorted(subject for subject, cells in found.items() if cells is None)
    if 2 * len(lacking) > len(found):
        raise ValueError(
            f"{len(lacking)} of {len(found)} cases have no row in conditions: {_listed(lacking)}; its first column "
            f"must name the cases as the data do, but names {_listed([*table])}; a row with empty cells means unknown"
        )
    if lacking:
        _logger.warning(
            "%d of %d cases have no row in conditions, so that these count as unknown: %s",
            len(lacking),
            len(found),
            _listed(lacking),
        )
    return {subject: dict(cells or dict.fromkeys(columns, "")) for subject, cells in found.items()}


def fit_conditions(items: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Find out from the training cases how conditions become numbers.

    Args:
        items: Training items with ``condition_values``: their cells by heading.
    Returns:
        In the order of the columns, plain types: ``name``, ``mean``, ``sd``, ``min`` and ``max`` of a column of
        numbers; ``name`` and ``words`` of a column of words.
    Raises:
        ValueError: If a column holds numbers and words, no value, one value only, more than 10 words, or words that
            differ only in upper and lower case.
    """
    columns = items[0][VALUES]
    return [_fit(name, {item["subject"]: item[VALUES][name] for item in items}) for name in columns]


def condition_names(conditions: Sequence[Mapping[str, Any]] | None) -> list[str]:
    """Name of each value that the network takes: ``["Age", "Sex: M"]``.

    Args:
        conditions: The conditions; see :func:`fit_conditions`. None: there are none.
    """
    return [name for condition in conditions or () for name in _value_names(condition)]


def describe_conditions(conditions: Sequence[Mapping[str, Any]] | None) -> str:
    """The conditions in words, with the values of the training cases: ``"Age (20.2 to 81.9), Sex (F or M)"``.

    Args:
        conditions: The conditions; see :func:`fit_conditions`. None: there are none.
    """
    values = [
        " or ".join(condition["words"]) if "words" in condition else f"{condition['min']:g} to {condition['max']:g}"
        for condition in conditions or ()
    ]
    return ", ".join(f"{name} ({found})" for name, found in zip(_names(conditions or ()), values, strict=True))


class EncodeConditionsd(Transform):
    """Turn an item's ``condition_values``, its cells by heading, into ``conditions`` ``(K,)``, NaN where unknown.

    Items without ``condition_values`` pass unchanged; columns that the network does not take are ignored. A word that
    no training case has counts as unknown, with a warning.

    Args:
        conditions: The conditions; see :func:`fit_conditions`. None: the network takes none.
    Raises:
        ValueError: When called, if there are values but the network takes none or others, or a word is no number.
    """

    def __init__(self, conditions: Sequence[Mapping[str, Any]] | None) -> None:
        self.conditions = conditions

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        if VALUES not in data:
            return dict(data)
        cells = data[VALUES]
        if not self.conditions:
            raise ValueError(
                f"the cases have values of {_listed([*cells])}, but this network takes no conditions: leave conditions "
                "out (segmentation and synthesis have none), or train a network for generation with them"
            )
        if absent := [name for name in _names(self.conditions) if name not in cells]:
            raise ValueError(
                f"conditions has no column {', '.join(absent)}, which the network was trained with, only "
                f"{_listed([*cells])}; add the column (an empty cell means unknown)"
            )
        values = [v for c in self.conditions for v in _encoded(c, cells[c["name"]], str(data.get("subject", "a case")))]
        return {**data, "conditions": torch.tensor(values, dtype=torch.float32)}


def _fit(name: str, cells: Mapping[str, str]) -> dict[str, Any]:
    known = {subject: cell for subject, cell in cells.items() if not is_missing(cell)}
    numbers = {subject: number for subject, cell in known.items() if (number := number_in(cell)) is not None}
    if not known:
        raise ValueError(f"the column {name} of conditions has no value for any training case; leave it out")
    if numbers and len(numbers) < len(known):
        raise _mixed(name, *next((subject, cell) for subject, cell in known.items() if subject not in numbers))
    unknown = f"{len(cells) - len(known)} unknown"
    return _fit_numbers(name, [*numbers.values()], unknown) if numbers else _fit_words(name, known.values(), unknown)


def _fit_numbers(name: str, numbers: Sequence[float], unknown: str) -> dict[str, Any]:
    fitted = {"mean": fmean(numbers), "sd": pstdev(numbers), "min": min(numbers), "max": max(numbers)}
    if fitted["sd"] == 0:
        raise _constant(name, f"{numbers[0]:g}")
    _logger.info("condition %s: %s; %s", name, ", ".join(f"{key} {value:g}" for key, value in fitted.items()), unknown)
    return {"name": name, **fitted}


def _fit_words(name: str, words: Iterable[str], unknown: str) -> dict[str, Any]:
    counted = dict(sorted(Counter(words).items()))
    if len(counted) == 1:
        raise _constant(name, *counted)
    if len(counted) > _MAX_WORDS:
        raise ValueError(
            f"the column {name} of conditions has {len(counted)} different words ({_listed([*counted])}), and may have "
            f"{_MAX_WORDS}; group them, or leave it out (choose columns with condition_columns)"
        )
    spellings: dict[str, str] = {}
    for word in counted:
        if (other := spellings.setdefault(word.casefold(), word)) != word:
            raise ValueError(f"the column {name} of conditions has {other!r} and {word!r}; write the same word alike")
    _logger.info("condition %s: %s; %s", name, ", ".join(f"{word} {n}" for word, n in counted.items()), unknown)
    return {"name": name, "words": [*counted]}


def _encoded(condition: Mapping[str, Any], cell: str, subject: str) -> list[float]:
    if "words" not in condition:
        number = number_in(cell)
        if number is None and not is_missing(cell):
            raise _mixed(condition["name"], subject, cell)
        return [math.nan if number is None else (number - condition["mean"]) / condition["sd"]]
    words = condition["words"]
    if cell in words:
        return [1.0 if cell == word else -1.0 for word in _valued(words)]
    if not is_missing(cell):
        warnings.warn(f"no training case has {condition['name']} {cell!r}: it counts as unknown", stacklevel=3)
    return [math.nan] * len(_valued(words))


def _valued(words: Sequence[str]) -> Sequence[str]:
    """The words that have a value of their own: of two, the other is -1."""
    return words[1:] if len(words) == 2 else words


def _value_names(condition: Mapping[str, Any]) -> list[str]:
    name = condition["name"]
    return [f"{name}: {word}" for word in _valued(condition["words"])] if "words" in condition else [name]


def _names(conditions: Sequence[Mapping[str, Any]]) -> list[str]:
    return [condition["name"] for condition in conditions]


def number_in(cell: str) -> float | None:
    """The number that a cell holds, or None."""
    try:
        number = math.nan if "_" in cell else float(cell)
    except ValueError:
        return None
    return number if abs(number) < 1e300 else None  # neither NaN nor infinite, nor is a sum of such numbers


def _constant(name: str, value: str) -> ValueError:
    return ValueError(
        f"the column {name} of conditions has the same value, {value}, for all training cases: nothing can be learned "
        "from it; leave it out"
    )


def _mixed(name: str, subject: str, cell: str) -> ValueError:
    return ValueError(
        f"{subject} has {name}={cell!r} in conditions, but other cases have numbers; give it a number, or empty the "
        "cell (unknown); or write words for all cases"
    )


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MAX_LISTED} more" if len(names) > _MAX_LISTED else ""
    return ", ".join(names[:_MAX_LISTED]) + more
