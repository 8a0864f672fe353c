"""Read and check the values that a user gave for the knobs at the top of a config, before the config uses them.

MONAI's command line evaluates what looks like Python, and accepts knobs that a config does not have: ``--zoom false``
is the word "false", which counts as true; ``--output_dir 2024_01`` is the number 202401; ``--num_sample 8`` changes
nothing. ``#`` separates the parts of an id in MONAI's configs, so that ``/data/study#1`` becomes ``/data/study::1``.
"""

from __future__ import annotations

import ast
import difflib
import os
import re
import sys
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from monai.bundle import ConfigParser

from monai_idm.command_line import is_monai_bundle

__all__ = ["check_paths", "parsed", "read_knobs", "require_plain_paths"]

_WORDS = {"true": True, "false": False, "null": None, "none": None}
_PATH = re.compile(r"(_dir|_file|bundle_root|^conditions)$")
_LANGUAGE = ("$", "@", "%")  # an expression, a reference or a macro, which MONAI replaces on purpose
_MONAI = (
    "bundle_root",
    "device",
    "dataset_dir",
    "initialize",
    "run",
    "finalize",
)  # what MONAI's tools may set in any bundle
_RENAMED = {"sampler_steps": "num_inference_steps", "patch_size": "inference_patch_size", "any_to_any": "known"}
_ALIASES = {"judged_known": "validation_known"}  # renamed in version 0.4.0; they work until version 0.5.0


class Trained(Protocol):
    """Interface of trained weights: see :class:`~monai_idm.trained.TrainedModel`."""

    @property
    def defaults(self) -> Mapping[str, Any]:
        """Values that training uses for settings that nobody gave."""

    def reconcile(self, given: Mapping[str, Any]) -> Mapping[str, Any]:
        """All settings, after comparing those that were given with the weights."""


def read_knobs(trained: Trained | None = None, of_training: bool = False) -> None:
    """Give the knobs at the top of a config their values. It must come first in the config's ``initialize``.

    The words true, false and null become values. With weights, the settings that they record are used throughout the
    config.

    Args:
        trained: The weights of an evaluation or an inference; None: a training run, which decides its own settings.
        of_training: Whether the config has knobs for all settings of training; those at their defaults then count as
            not given by the user.
    Raises:
        ValueError: If a knob on the command line does not belong to the config, or a setting contradicts the weights.
    """
    config = _surrounding_config()
    resolved = config.ref_resolver.resolved_content
    for old, knob in _ALIASES.items():
        if {old, knob} <= dict(_knobs(config)).keys():
            warnings.warn(f"--{old} is called --{knob} since version 0.4.0", FutureWarning, stacklevel=2)
            config.config[knob] = resolved[knob] = config.config.pop(old)  # type: ignore[index, union-attr]
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


def parsed(id: str) -> Any:
    """Another part of the config whose expression calls this, made if needed.

    A reference, ``@datalist``, does the same, but whatever the expression then does: with this, a network that has no
    numeric conditions can be built without looking for data.

    Args:
        id: Id of that part in the config.
    """
    return _surrounding_config().get_parsed_content(id)


def check_paths() -> None:
    """Refuse paths in knobs that differ from what the user gave. It must come first in a config's ``run``.

    It is not part of ``initialize``, because tools that only want the network and write nothing call that.

    Raises:
        ValueError: See :func:`require_plain_paths`.
    """
    knobs = _knobs(_surrounding_config())
    require_plain_paths({knob: value for knob, value in knobs if _PATH.search(knob) and not _is_code(value)})


def require_plain_paths(paths: Mapping[str, Any]) -> None:
    """Refuse paths that differ from what the user gave, before anything is written to them.

    Args:
        paths: The paths of a config by the names of their knobs; None for a path that is not set.
    Raises:
        ValueError: If a path contains ``#``, or ``::``, which ``#`` becomes; or if the command line read something
            other than what was typed.
    """
    for knob, path in paths.items():
        typed = _typed(knob)
        if "#" in (typed or "") or (isinstance(path, str) and ("#" in path or "::" in path)):
            raise ValueError(
                f"{knob}={typed or path!s} holds '#' or '::', which separate the parts of an id in MONAI's configs: "
                f"'#' in a path becomes '::', or is cut off, and files would go to a folder other than the one "
                f"named. Rename the folder, or give a link to it whose path has neither: ln -s 'study#1' study_1"
            )
        if typed is None and (path is None or isinstance(path, str | os.PathLike)):
            continue
        if typed is None or (not typed.startswith(_LANGUAGE) and path != typed and not _quoted(typed, path)):
            raise ValueError(
                f"{knob}={typed or path!s} was read as {path!r}: the command line evaluates what looks like "
                f"Python. Give a path that starts with a folder: --{knob} ./{typed or path!s}"
            )


def _surrounding_config() -> ConfigParser:
    """The config whose expression is being evaluated, found on the call stack: MONAI does not pass it on."""
    frame = sys._getframe()
    while frame is not None:
        caller = frame.f_locals.get("self")
        if isinstance(caller, ConfigParser):
            return caller
        frame = frame.f_back  # type: ignore[assignment]
    raise RuntimeError("no config is being evaluated; call this in a config's initialize or run")


def _knobs(config: ConfigParser) -> Iterator[tuple[str, Any]]:
    """Names and unevaluated values at the top of a config, except components."""
    for knob, value in [*config.config.items()]:  # type: ignore[union-attr]
        if not (isinstance(value, Mapping) and "_target_" in value):
            yield str(knob), value


def _is_code(value: Any) -> bool:
    return isinstance(value, str) and value.startswith(_LANGUAGE)


def _require_known(config: ConfigParser, knobs: set[str], settings: set[str]) -> None:
    """Refuse a knob on the command line that nothing in the config refers to."""
    used = {*re.findall(r"[@%](\w+)", repr(config.config)), *settings, *_MONAI}
    for knob in knobs - used:
        if _typed(knob) is None or knob.startswith("_"):
            continue
        near = [_RENAMED[knob]] if knob in _RENAMED else difflib.get_close_matches(knob, sorted(used & knobs), 1)
        raise ValueError(
            f"--{knob} is not a knob of this config and would change nothing"
            + (f"; did you mean --{near[0]}?" if near else "; its knobs are listed at its top")
        )


def _typed(knob: str) -> str | None:
    """The text given for a knob on MONAI's command line; None if it was not given."""
    if not is_monai_bundle():
        return None
    typed = None
    for word, following in zip(sys.argv, [*sys.argv[1:], ""], strict=True):
        name, equals, value = word.partition("=")
        if name.startswith("-") and name.lstrip("-").replace("-", "_") == knob:
            typed = value if equals else following
    return typed


def _quoted(typed: str, path: Any) -> bool:
    """Whether the text was typed as a Python literal on purpose: in quotes, or None."""
    try:
        literal = ast.literal_eval(typed)
    except (ValueError, SyntaxError):
        return False
    return literal == path and (literal is None or typed[0] in "\"'")
