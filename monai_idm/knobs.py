"""What a user gave for the knobs at the top of a config, read before anything else of the config is.

MONAI's command line takes what looks like Python for Python, and adds what it does not know: ``--zoom false`` is the
word "false", which is as good as true; ``--output_dir 2024_01`` is the number 202401; ``--num_sample 8`` changes
nothing. ``#`` separates the parts of an id in MONAI's configs, so that ``/data/study#1`` becomes ``/data/study::1``.
"""

from __future__ import annotations

import ast
import difflib
import os
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from monai.bundle import ConfigParser

__all__ = ["check_paths", "read_knobs", "require_plain_paths"]

_WORDS = {"true": True, "false": False, "null": None, "none": None}
_PATH = re.compile(r"(_dir|_file|bundle_root)$")
_LANGUAGE = ("$", "@", "%")  # an expression, a reference or a macro, which MONAI replaces on purpose
_MONAI = (
    "bundle_root",
    "device",
    "dataset_dir",
    "initialize",
    "run",
    "finalize",
)  # what its tools may set in any bundle
_RENAMED = {"sampler_steps": "num_inference_steps", "patch_size": "inference_patch_size", "any_to_any": "known"}


class Trained(Protocol):
    """What is asked of the weights: see :class:`~monai_idm.trained.TrainedModel`."""

    @property
    def defaults(self) -> Mapping[str, Any]:
        """What a training takes for the settings that nobody gives."""

    def reconcile(self, given: Mapping[str, Any]) -> Mapping[str, Any]:
        """All settings, after those that were given were compared with the weights."""


def read_knobs(trained: Trained | None = None, of_training: bool = False) -> None:
    """Stands first in ``initialize`` of a config, and gives the knobs at its top their values.

    Words become true, false and null. With weights, the settings that these decide become theirs, in the whole config.

    Args:
        trained: The weights of an evaluation or an inference; None: a training, which decides by itself.
        of_training: The config has knobs for all that a training decides: nobody gave those that are at their defaults.
    Raises:
        ValueError: If a knob that was typed is none of the config, or a setting contradicts the weights.
    """
    config = _surrounding_config()
    resolved = config.ref_resolver.resolved_content
    for knob, value in _knobs(config):
        if isinstance(value, str) and value.lower() in _WORDS:
            config.config[knob] = resolved[knob] = _WORDS[value.lower()]  # type: ignore[index]
    knobs = dict(_knobs(config))
    settings = {} if trained is None else trained.defaults
    _require_known(config, {*knobs}, {*settings})
    if trained is None:
        return
    given = {
        knob: config.get_parsed_content(knob)
        for knob, value in knobs.items()
        if knob in settings
        and (_typed(knob) is not None or not (_is_code(value) or value == (settings[knob] if of_training else None)))
    }
    resolved.update({knob: value for knob, value in trained.reconcile(given).items() if knob in knobs})


def check_paths() -> None:
    """Stands first in ``run`` of a config: refuses paths of knobs that are not those that a user gave.

    It is not part of ``initialize``, which tools call that want the network alone and write nothing.

    Raises:
        ValueError: As :func:`require_plain_paths`.
    """
    knobs = _knobs(_surrounding_config())
    require_plain_paths({knob: value for knob, value in knobs if _PATH.search(knob) and not _is_code(value)})


def require_plain_paths(paths: Mapping[str, Any]) -> None:
    """Refuse paths that are not those that a user gave, before anything is written to them.

    Args:
        paths: The paths of a config by the names of their knobs; None where there is none.
    Raises:
        ValueError: If a path holds ``#``, or ``::``, which ``#`` becomes; or if the command line read something else
            than what was typed.
    """
    for knob, path in paths.items():
        typed = _typed(knob)
        if "#" in (typed or "") or (isinstance(path, str) and ("#" in path or "::" in path)):
            raise ValueError(
                f"{knob}={typed or path!s} holds '#' or '::', which separate the parts of an id in MONAI's configs: "
                f"'#' in a path becomes '::', or is cut off, and files would go to another folder than the one "
                f"named. Rename the folder, or give a link to it, whose path has neither: ln -s 'study#1' study_1"
            )
        if typed is None and (path is None or isinstance(path, str | os.PathLike)):
            continue
        if typed is None or (not typed.startswith(_LANGUAGE) and path != typed and not _quoted(typed, path)):
            raise ValueError(
                f"{knob}={typed or path!s} was read as {path!r}: the command line takes for Python what looks like "
                f"it. Give a path that starts with a folder: --{knob} ./{typed or path!s}"
            )


def _surrounding_config() -> ConfigParser:
    """The config whose expression is being evaluated, found among the callers: MONAI hands it to nobody."""
    frame = sys._getframe()
    while frame is not None:
        caller = frame.f_locals.get("self")
        if isinstance(caller, ConfigParser):
            return caller
        frame = frame.f_back  # type: ignore[assignment]
    raise RuntimeError("no config is being evaluated; call this in a config's initialize or run")


def _knobs(config: ConfigParser) -> Iterator[tuple[str, Any]]:
    """Values at the top of a config, as they stand there; parts of components are none."""
    for knob, value in [*config.config.items()]:  # type: ignore[union-attr]
        if not (isinstance(value, Mapping) and "_target_" in value):
            yield str(knob), value


def _is_code(value: Any) -> bool:
    return isinstance(value, str) and value.startswith(_LANGUAGE)


def _require_known(config: ConfigParser, knobs: set[str], settings: set[str]) -> None:
    """Refuse a knob that was typed and that nothing in the config refers to."""
    used = {*re.findall(r"[@%](\w+)", repr(config.config)), *settings, *_MONAI}
    for knob in knobs - used:
        if _typed(knob) is None or knob.startswith("_"):
            continue
        near = [_RENAMED[knob]] if knob in _RENAMED else difflib.get_close_matches(knob, sorted(used & knobs), 1)
        raise ValueError(
            f"--{knob} is no knob of this config, and would change nothing"
            + (f"; did you mean --{near[0]}?" if near else "; its knobs are at its top")
        )


def _typed(knob: str) -> str | None:
    """What stands for a knob on MONAI's command line; None where it is not there."""
    if Path(sys.argv[0]).parts[-3:] != ("monai", "bundle", "__main__.py"):
        return None
    found = None
    for word, following in zip(sys.argv, [*sys.argv[1:], ""], strict=True):
        name, given, value = word.partition("=")
        if name.startswith("-") and name.lstrip("-").replace("-", "_") == knob:
            found = value if given else following
    return found


def _quoted(typed: str, path: Any) -> bool:
    """Whether the text was typed as a Python literal on purpose: in quotes, or None."""
    try:
        literal = ast.literal_eval(typed)
    except (ValueError, SyntaxError):
        return False
    return literal == path and (literal is None or typed[0] in "\"'")
