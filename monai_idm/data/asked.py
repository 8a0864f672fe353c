"""What samples are drawn with: values that a user asks for by the names of conditions, or those of real cases."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from monai_idm.data.conditions import VALUES, describe_conditions, number_in
from monai_idm.data.table import is_missing
from monai_idm.schedulers import check_guidance_scale

__all__ = ["asked_conditions"]

_EXAMPLE = "{Age: 70, Sex: F}"
_logger = logging.getLogger(__name__)


def asked_conditions(
    values: Mapping[Any, Any] | None,
    conditions: Sequence[Mapping[str, Any]] | None,
    guidance_scale: float = 1.0,
    cases: Sequence[Mapping[str, Any]] = (),
) -> dict[str, list[str]]:
    """What samples are drawn with: for each condition the values that they take in turn, empty where unknown.

    Args:
        values: A value or a list of values by the name of a condition; what is left out is unknown. None: those of
            ``cases``.
        conditions: The conditions of the network; see :func:`fit_conditions`. None: it takes none.
        guidance_scale: Scale of guidance by the conditions, for which at least one must be known, unless it is 0 or 1.
        cases: Datalist items whose ``condition_values``, if they have any, are used where ``values`` is None.
    Returns:
        Lists of text by the names of all conditions; empty if nothing is known.
    Raises:
        ValueError: If a name, a word or a number is not among those of the network, the scale is not a number from 0
            on, or there is nothing to guide by.
    """
    check_guidance_scale(guidance_scale)
    names = [condition["name"] for condition in conditions or ()]
    if values is None:
        given = {name: [case[VALUES].get(name, "") for case in cases if VALUES in case] for name in names}
    else:
        given = _checked(values, conditions or ())
    known = any(not is_missing(cell) for cells in given.values() for cell in cells)
    if not known and guidance_scale not in (0, 1):
        raise ValueError(
            f"guidance_scale={guidance_scale} has nothing to guide by: "
            + (
                f'give values of {describe_conditions(conditions)}, as in --condition_values "{_EXAMPLE}"'
                if names
                else "the network was trained without conditions; classes can be guided by as a column of words of "
                "--conditions, in training"
            )
        )
    return {name: given.get(name) or [""] for name in names} if known else {}


def _checked(values: Any, conditions: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """The values as lists of text, each of a condition of the network."""
    trained = f"the network was trained with {describe_conditions(conditions)}"
    if not conditions:
        raise ValueError(
            f"condition_values={values!r}, but the network was trained without conditions; leave it out, or train with "
            "--conditions"
        )
    if not isinstance(values, Mapping):
        raise ValueError(
            f'condition_values={values!r} is no set of names and values; write --condition_values "{_EXAMPLE}", and '
            f"quote words that hold a space; {trained}"
        )
    given = {}
    outside = []
    for name, value in values.items():
        condition = next((c for c in conditions if c["name"] == str(name)), None)
        if condition is None:
            raise ValueError(f"condition_values has {str(name)!r}, but {trained}; choose from these")
        cells = [_text(entry) for entry in (value if isinstance(value, list | tuple) else [value])]
        given[str(name)] = cells
        for cell in cells:
            if is_missing(cell):
                continue
            number, words = number_in(cell), condition.get("words")
            if words is None and number is None:
                raise ValueError(f"condition_values has {name}={cell!r}, which is no number; {trained}")
            if words is not None and cell not in words:
                raise ValueError(
                    f"condition_values has {name}={cell!r}, but {trained}; choose from these, or leave it out (unknown)"
                )
            if words is None and number is not None and not condition["min"] <= number <= condition["max"]:
                outside.append(f"{name}={cell} (trained on {condition['min']:g} to {condition['max']:g})")
    if outside:
        _logger.warning(
            "outside the range of the training cases, so the network has to extrapolate: %s", ", ".join(outside)
        )
    return given


def _text(value: Any) -> str:
    if value is None:
        return ""
    return format(value, ".15g") if isinstance(value, float) else str(value).strip()
