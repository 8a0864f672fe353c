"""Store sections of plain types with weights, in the metadata of a ``state_dict``.

Metadata goes wherever the weights go, and loaders ignore it: ``model.pt`` stays a bare ``state_dict``.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from torch import nn

__all__ = ["differences", "read_sections", "sign"]


def sign(
    module: nn.Module,
    section: str,
    content: Callable[[nn.Module], Mapping[str, Any]],
    check: Callable[[Mapping[str, Any]], None] | None = None,
) -> None:
    """Write a section into every ``state_dict`` of a module, and check it in every ``state_dict`` the module loads.

    Args:
        module: The module; its copies do the same.
        section: Name of the section.
        content: Returns the content of the section, given the module.
        check: Raises an error if the section in weights that are about to be loaded is not acceptable.
    """
    # partials: torch marks a hook by an attribute, which a bound method cannot hold
    module.register_state_dict_post_hook(partial(_write, section, content))
    if check is not None:
        module.register_load_state_dict_pre_hook(partial(_read, section, check))


def read_sections(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """The sections of a ``state_dict``, by name."""
    return getattr(state_dict, "_metadata", {}).get("", {})


def differences(theirs: Mapping[str, Any], ours: Mapping[str, Any], names: Iterable[str] | None = None) -> list[str]:
    """How the values of a checkpoint and of a run differ, a phrase for each name.

    Args:
        theirs: Values of the checkpoint.
        ours: Values of the run.
        names: Names to compare; None: all.
    """
    return [
        f"{name}: {theirs.get(name, 'nothing')} in the checkpoint, {ours.get(name, 'nothing')} here"
        for name in (names or {**ours, **theirs})
        if theirs.get(name) != ours.get(name)
    ]


def _write(
    section: str, content: Callable[[nn.Module], Any], module: nn.Module, state_dict: dict, prefix: str, metadata: dict
) -> None:
    metadata[section] = copy.deepcopy(content(module))


def _read(
    section: str,
    check: Callable[[Any], None],
    module: nn.Module,
    state_dict: dict,
    prefix: str,
    metadata: dict,
    *_: Any,
) -> None:
    if section in metadata:
        check(metadata[section])
