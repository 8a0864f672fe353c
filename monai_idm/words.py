"""What ``true``, ``false`` and ``null`` on MONAI's command line mean: what they mean in a config.

The command line reads Python: ``--zoom False`` gives False, and ``--zoom false`` the word "false", which is as good as
true. There, ``None`` cannot be given at all.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Any

__all__ = ["read_words"]

_WORDS = {"true": True, "false": False, "null": None, "none": None}


def read_words(knobs: Mapping[str, Any], resolved: MutableMapping[str, Any]) -> None:
    """Give knobs that hold such a word its value, before anything else of the config reads them.

    Args:
        knobs: Values of the knobs that can be true, false or null, by their ids.
        resolved: What MONAI's resolver has resolved: ``__local_refs`` in an expression of a config.
    """
    for knob, value in knobs.items():
        if isinstance(value, str) and value.lower() in _WORDS:
            resolved[knob] = _WORDS[value.lower()]
