"""The command line that repeats a run: the bundle's configs, and the knobs that differ from their defaults."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import ceil, isfinite
from pathlib import Path
from typing import Any

from fire.parser import DefaultParseValue
from monai.bundle import ConfigParser

from idm_bundle.report.digits import exact, plain
from idm_bundle.report.settings import Settings, validation_epochs
from monai_idm import find_bundle_root

__all__ = ["Command", "repeat"]

_PATHS = ("dataset_dir", "datalist_file", "output_dir", "ckpt_dir")
_VARIANTS = ("", "paper", "native", "patchddm")  # overlays that may follow the task's
_BASES = {"generation": ("train",)}
_PLAIN_WORD = re.compile(r"[\w@%+=:,./#-]+")


@dataclass(frozen=True)
class Command:
    """A command line.

    Attributes:
        configs: Files, as they are written in the command.
        options: Knobs to give, with their values.
        defaults: What the configs set each knob to without its option; empty if the configs were not found.
        has_parts: Whether the configs make the network and the optimizer that the run had.
    """

    configs: tuple[str, ...]
    options: Mapping[str, Any]
    defaults: Mapping[str, Any]
    has_parts: bool = True

    def __str__(self) -> str:
        files = self.configs[0] if len(self.configs) == 1 else _literal(list(self.configs))
        lines = [f"python -m monai.bundle run training --config_file {_quoted(files)}"]
        lines += [f"--{knob} {_quoted(_argument(value, knob in _PATHS))}" for knob, value in self.options.items()]
        return " \\\n  ".join(lines)


def repeat(settings: Settings, knobs: Iterable[str]) -> Command:
    """The command with the fewest options that sets all that is known of a run.

    Args:
        settings: What is known of the run.
        knobs: Names of the knobs whose defaults are wanted.
    """
    task = settings.task or "generation"
    base = _BASES.get(task, ("train", task))
    try:
        root = Path(find_bundle_root())
    except FileNotFoundError:
        return _of_everything(Path("bundle"), base, settings)
    candidates = []
    for variant in _VARIANTS if task == "segmentation" else _VARIANTS[:-1]:
        names = (*base, variant) if variant else base
        files = [root / "configs" / f"{name}.yaml" for name in names]
        if all(file.is_file() for file in files):
            config = ConfigParser()
            config.read_config(files)
            has_parts = _has_parts(config, settings)
            candidates.append(Command(_files(root, names), *_compared(config, settings, knobs), has_parts))
    # of equals the first, which has no overlay
    return min(
        candidates, key=lambda c: (not c.has_parts, len(c.options)), default=_of_everything(root, base, settings)
    )


def _of_everything(root: Path, names: Iterable[str], settings: Settings) -> Command:
    return Command(_files(root, names), dict(settings.knobs), {})


def _files(root: Path, names: Iterable[str]) -> tuple[str, ...]:
    return tuple((root / "configs" / f"{name}.yaml").as_posix() for name in names)


def _has_parts(config: ConfigParser, settings: Settings) -> bool:
    """Whether a config makes the network and the optimizer that the run had."""
    parts = {"network_def": settings.network, "optimizer": settings.optimizer}
    return all(wanted is None or wanted in config[part]["_target_"].split(".") for part, wanted in parts.items())


def _compared(config: ConfigParser, settings: Settings, knobs: Iterable[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Options and defaults; an option may change later defaults, as dataset_dir changes that of spatial_size."""
    options, defaults = {}, {}
    first = [knob for knob in ("dataset_dir", "preset") if knob in settings.knobs]
    for knob in dict.fromkeys([*first, *settings.knobs]):
        value = settings.knobs[knob]
        if knob.startswith("network_def#"):
            options[knob] = value  # recorded only where it differs
        elif knob in config:
            defaults[knob] = config.get_parsed_content(knob)
            if not _is_default(knob, value, defaults[knob], config, settings):
                options[knob] = config[knob] = value
    return options, {knob: config.get_parsed_content(knob) for knob in knobs if knob in config} | defaults


def _is_default(knob: str, value: Any, default: Any, config: ConfigParser, settings: Settings) -> bool:
    """Whether leaving the knob out gives the same run."""
    if knob in ("output_dir", "ckpt_dir"):
        return Path(value).resolve() == Path(default).resolve()
    if knob == "epoch_length" and default is None and settings.num_cases is not None:
        return bool(value == ceil(settings.num_cases / config.get_parsed_content("batch_size")))
    if knob == "val_interval" and settings.epochs is not None:
        last = settings.knobs.get("max_epochs", settings.epochs)
        return validation_epochs(default, settings.epochs, last) == settings.validated
    return bool(value == default)


def _argument(value: Any, is_path: bool) -> str:
    """A value as MONAI's command line reads it back."""
    if value is None or isinstance(value, bool):
        return plain(value)  # the words of the configs
    if not isinstance(value, str):
        return _literal(value)
    if DefaultParseValue(value) == value:
        return value
    return f"./{value}" if is_path else repr(value)  # it looks like Python, as 2024_01 does


def _literal(value: Any) -> str:
    """Python for a value inside an argument."""
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{name!r}:{_literal(part)}" for name, part in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(_literal, value)) + "]"
    return exact(value) if isinstance(value, float) and isfinite(value) else repr(value)


def _quoted(argument: str) -> str:
    """An argument for the shell, in double quotes where these do."""
    if _PLAIN_WORD.fullmatch(argument):
        return argument
    return shlex.quote(argument) if re.search(r'["$`\\!]', argument) else f'"{argument}"'
