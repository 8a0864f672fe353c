"""The settings of a run, as far as its files record them: weights, newest checkpoint, and files in ``output_dir``."""

from __future__ import annotations

import inspect
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from monai_idm.checkpoints import (
    PHANTOM,
    DamagedFile,
    TrainingSplit,
    read_checkpoint,
    read_sections,
    read_weights,
)
from monai_idm.data import describe_conditions
from monai_idm.data.patients import patient
from monai_idm.networks import PRESETS, InvertibleDiffusionUNet
from monai_idm.networks.presets import preset_of
from monai_idm.trained import task_of

__all__ = ["Settings", "read_settings", "validation_epochs"]

_PARTS = ("training", "validation", "test")
_FILES_OF_A_RUN = ("model.pt", "checkpoint_epoch=")  # what a run writes to its ckpt_dir


@dataclass
class Settings:
    """What the files of a run record.

    Attributes:
        task: Name of the task; None if the weights hold no record.
        knobs: Values by the name of the knob that sets them.
        facts: What is no knob, by what it is called on the page.
        gaps: A sentence for each setting that the run had and no file records.
        network, optimizer: Class names; None if not known.
        num_cases: Number of training cases.
        validated: Epochs that were validated.
        epochs: Number of epochs that the run trained.
        phantoms: Whether it was trained on generated phantoms.
    """

    task: str | None = None
    knobs: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    gaps: list[str] = field(default_factory=list)
    network: str | None = None
    optimizer: str | None = None
    num_cases: int | None = None
    validated: list[int] = field(default_factory=list)
    epochs: int | None = None
    phantoms: bool = False


def read_settings(run_dir: Path, weights: Path, validated: Sequence[int] = ()) -> Settings:
    """Collect the settings of a run.

    Args:
        run_dir: Its ``output_dir``.
        weights: Its ``model.pt``, or a checkpoint.
        validated: Epochs that were validated, from TensorBoard's events.
    Raises:
        DamagedFile: If the file of the weights is damaged.
    """
    state_dict, sections = read_weights(weights)
    record, arguments = sections.get("record"), sections.get("arguments")
    if record is None:
        return Settings(gaps=[f"{weights.name} holds no record of its training, so its settings are not known."])
    settings = Settings(task_of(record).name, dict(record["convention"]), validated=sorted({*validated}))
    settings.facts["task"] = settings.task
    if record.get("seed") is not None:
        settings.knobs["seed"] = record["seed"]
    if settings.knobs.get("classes"):
        settings.gaps.append("class_file is not recorded, and the run needs it: add --class_file.")
    if conditions := settings.knobs.pop("numeric_conditions", None):
        settings.facts["conditions"] = describe_conditions(conditions)
        settings.knobs["condition_columns"] = [condition["name"] for condition in conditions]
        settings.gaps.append("The table of conditions is not recorded, and the run needs it: add --conditions.")
    _add_network(settings, state_dict, arguments)
    _add_data(settings, record, run_dir)
    _add_checkpoint(settings, record, weights.parent)
    _add_validation(settings, run_dir)
    settings.knobs["output_dir"] = str(run_dir)
    if weights.name.startswith(_FILES_OF_A_RUN):
        settings.knobs["ckpt_dir"] = str(weights.parent)
    settings.facts |= {f"version of {name}": version for name, version in record.get("versions", {}).items()}
    return settings


def validation_epochs(interval: int, epochs: int, max_epochs: int) -> list[int]:
    """Epochs that a run of ``epochs`` epochs, out of ``max_epochs``, validates: every ``interval`` and the last one."""
    return [epoch for epoch in range(1, epochs + 1) if epoch % interval == 0 or epoch == max_epochs]


def _add_network(settings: Settings, state_dict: Mapping[str, Any], arguments: Mapping[str, Any] | None) -> None:
    """The knobs of the network; arguments that differ from its preset's become ``network_def#...``."""
    if arguments is None:
        settings.network = "PatchDiffusionUNet"
        settings.gaps.append("The size of the network (preset) is not recorded.")
        return
    settings.network = InvertibleDiffusionUNet.__name__
    preset = preset_of(arguments) or "light"
    settings.knobs |= {"preset": preset, "bookend_stride": arguments["bookend_stride"]}
    signature = inspect.signature(InvertibleDiffusionUNet).parameters
    for name in ("spatial_dims", *PRESETS[preset], "norm_num_groups", "bookends"):
        default = PRESETS[preset].get(name, 3 if name == "spatial_dims" else signature[name].default)
        if name in arguments and arguments[name] != (list(default) if isinstance(default, tuple) else default):
            settings.knobs[f"network_def#{name}"] = arguments[name]
    if arguments["inverse_head"]:
        settings.gaps.append(
            "lambda_r was above 0 (an inverse of the network was trained); its value is not recorded: add --lambda_r."
        )
    else:
        settings.knobs["lambda_r"] = 0.0
    narrow = any(part.dtype == torch.bfloat16 for part in state_dict.values() if isinstance(part, torch.Tensor))
    settings.knobs["weight_dtype"] = "bfloat16" if narrow else "float32"


def _add_data(settings: Settings, record: Mapping[str, Any], run_dir: Path) -> None:
    """The knobs of the data, from the record, the datalist, and the phantoms' phantoms.json."""
    data = record.get("data")
    if data is None:
        settings.gaps.append("The training data are not recorded.")
        return
    settings.num_cases = data["num_cases"]
    settings.facts |= {"training cases": data["num_cases"], "voxel size [mm]": data["spacing_mm"]}
    settings.knobs["spatial_size"] = list(data["spatial_size"])
    datalist = _datalist_of(record, run_dir)
    if datalist is not None:
        settings.knobs |= {name: datalist[name] for name in ("fractions",) if name in datalist}
    settings.phantoms = data["source"] == PHANTOM
    if settings.phantoms:
        settings.knobs["dataset_dir"] = None
        phantoms = _read_json(run_dir / "phantoms" / "phantoms.json")
        if phantoms is not None:
            settings.knobs["demo#num_subjects"] = len(phantoms["subjects"])
            settings.knobs["demo#phantom_size"] = phantoms["spatial_size"]
        else:
            settings.gaps.append("Number and size of the phantoms are not recorded: their folder is missing.")
    else:  # a page may be sent to others: it names the folder, and not where it is on this machine
        place = f"path/to/{Path(data['source']).name}"
        settings.knobs["dataset_dir"] = place
        settings.gaps.append(f"Only the name of the data's folder is shown: replace {place} by its path.")
        if datalist is not None and datalist["dataset_dir"] == data["source"]:
            settings.knobs["datalist_file"] = str(run_dir / "datalist.json")
            settings.gaps.append(
                "The command takes the split from the datalist.json of the run, however that split was made."
            )
    if record.get("earlier"):
        settings.gaps.append("The run started from the weights of an earlier run, which are not named.")


def _add_checkpoint(settings: Settings, record: Mapping[str, Any], ckpt_dir: Path) -> None:
    """What only a checkpoint holds: the optimizer's settings and the length of the run."""
    files = sorted(ckpt_dir.glob("checkpoint_epoch=*.pt"), key=lambda file: file.stat().st_mtime_ns, reverse=True)
    content = next(_checkpoints_of(record, files), None)
    if content is None:
        settings.gaps.append(
            "There is no checkpoint of this run beside the weights: learning rate and number of epochs are not known."
        )
        return
    trainer, groups = content["trainer"], content["optimizer"]["param_groups"]
    group = groups[0]
    settings.optimizer = "AdamWWeightNorm" if "amsgrad" in group else "AdamWInBackward"
    settings.knobs |= {
        "learning_rate": group.get("initial_lr", group["lr"]),
        "muon": any(group.get("muon") for group in groups),
        "betas": list(group["betas"]),
        "lambda_l2": group["lambda_l2"],
        "max_epochs": trainer["max_epochs"],
        "epoch_length": trainer["epoch_length"],
    }
    settings.epochs = trainer["iteration"] // trainer["epoch_length"]
    settings.facts |= {"epochs trained": settings.epochs, "iterations": trainer["iteration"]}
    if content.get("best", {}).get("metric") is not None:
        settings.facts["epoch of the best weights"] = content["best"]["epoch"]


def _add_validation(settings: Settings, run_dir: Path) -> None:
    """The knobs of validation that follow from its epochs and from the rows of its table."""
    table = _read_json(run_dir / "validation.json")
    rows = table.get("cases", []) if isinstance(table, dict) else []
    keys = [
        tuple(row.get(key) for key in ("case", "modality", "space", "region"))
        for row in rows
        if row.get("method") == "draw"
    ]
    if keys:
        settings.knobs["num_draws"] = max(Counter(keys).values())
    if not settings.validated:
        return
    epochs = settings.epochs or max(settings.validated)
    last = settings.knobs.get("max_epochs", epochs)
    fitting = (n for n in range(1, epochs + 1) if validation_epochs(n, epochs, last) == settings.validated)
    interval = next(fitting, None)
    if interval is not None:
        settings.epochs, settings.knobs["val_interval"] = epochs, interval
    else:
        settings.gaps.append(
            "The events hold validations at irregular epochs, as of several runs: val_interval is not known."
        )


def _checkpoints_of(record: Mapping[str, Any], files: Iterable[Path]) -> Any:
    """The content of those checkpoints that hold this record."""
    for file in files:
        try:
            content = read_checkpoint(file, mmap=True)
        except DamagedFile:
            continue
        if read_sections(content.get("network", {})).get("record") == record and "trainer" in content:
            yield content


def _datalist_of(record: Mapping[str, Any], run_dir: Path) -> dict[str, Any] | None:
    """The datalist in a folder, if it lists the cases in the record."""
    content, trained = _read_json(run_dir / "datalist.json"), TrainingSplit.of(record)
    try:
        cases = {part: [(item["subject"], patient(item)) for item in content[part]] for part in _PARTS}
    except (KeyError, TypeError):
        return None
    return None if trained is None or trained.differs_from(cases) else content


def _read_json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
