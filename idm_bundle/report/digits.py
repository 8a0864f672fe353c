"""How numbers are printed on the page: few digits, and no powers of ten."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from monai_idm.metrics.comparison import METRICS

__all__ = ["exact", "plain", "statistic"]

_SIGNIFICANT = 4
_TINY = 1e-5  # smaller numbers are easier to read as powers of ten


def plain(value: Any) -> str:
    """A value for a table: floats with four significant digits, integers in full, everything else as typed in a config.

    Args:
        value: A number, a text, true, false, null, or lists and mappings of these.
    """
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name}: {plain(part)}" for name, part in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(plain, value)) + "]"
    if not isinstance(value, float) or not math.isfinite(value):
        return str(value)
    if value and abs(value) < _TINY:
        return f"{value:.{_SIGNIFICANT}g}"
    if abs(value) >= 10**_SIGNIFICANT:
        return f"{value:.0f}"
    return np.format_float_positional(value, precision=_SIGNIFICANT, fractional=False, trim="-")


def exact(value: float) -> str:
    """A float with all the digits that restore the same value when it is read, and no power of ten."""
    return np.format_float_positional(value, trim="0")


def statistic(metric: str, figures: Mapping[str, Any], cases: int | None = None) -> str:
    """The mean of a metric, its standard deviation and its 95 % interval, where there are any.

    Args:
        metric: Its key, which decides the decimals: PSNR has two, SSIM and MAE four.
        figures: What :func:`monai_idm.metrics.statistics.describe` returns.
        cases: Number of cases; a mean of fewer states its own number.
    Returns:
        ``26.50 ± 0.50 [26.25, 26.75]``; a dash where there is no mean.
    """
    mean, sd = figures["mean"], figures.get("sd")
    if mean is None:
        return "–"
    form = METRICS[metric].form if metric in METRICS else _form(mean, sd or 0.0)
    text = f"{mean:{form}}"
    if sd is not None:
        text += f" ± {sd:{form}}"
    if figures.get("ci95"):
        text += " [{}, {}]".format(*(f"{limit:{form}}" for limit in figures["ci95"]))
    if cases is not None and figures.get("n", cases) != cases:
        text += f", {figures['n']} of {cases} cases"
    return text


def _form(mean: float, sd: float) -> str:
    """The same decimals for a mean and its spread: four significant digits of the larger one."""
    size = max(abs(mean), abs(sd))
    if not math.isfinite(size) or size == 0:
        return ".0f"
    if size < _TINY:
        return f".{_SIGNIFICANT}g"
    return f".{max(0, _SIGNIFICANT - 1 - math.floor(math.log10(size)))}f"
