"""``python -m idm_bundle package``: trained weights as a bundle that runs where this project is not installed.

Each config of the task is merged into one file, whose knobs have the values of the training run, as the record in the
weights holds them. The bundle also holds the code that the configs name: MONAI puts a bundle's folder on Python's path.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from monai.bundle import ConfigParser

import monai_idm
from idm_bundle.installed import bundle_here_or_installed
from idm_bundle.packaging.zoo import LARGE_FILE_BYTES
from monai_idm import __version__
from monai_idm.checkpoints import PHANTOM, fingerprint, read_weights
from monai_idm.data import describe_conditions
from monai_idm.networks import InvertibleDiffusionUNet
from monai_idm.networks.presets import PRESETS, preset_of
from monai_idm.tasks import Task, predicted_channels
from monai_idm.tasks.task import setting_names
from monai_idm.trained import task_of

__all__ = ["package"]

_BUNDLE = "brats_mri_invertible_diffusion"
_PLACES = {
    "ckpt_dir": "$@bundle_root + '/models'",
    "ckpt_file": "$@bundle_root + '/models/model.pt'",
    "output_dir": "$@bundle_root + '/output'",
}
_OVERLAYS = ("multi_gpu_train", "fsdp_train")  # listed after the config of training
_PAGES = ("EVALUATION.md", "KNOBS.md", "MODEL_CARD.md")
_logger = logging.getLogger(__name__)


class _Weights(NamedTuple):
    """Weights, the arguments of their network, the record of their training run, and its task."""

    state_dict: Mapping[str, Any]
    arguments: Mapping[str, Any]
    record: Mapping[str, Any]
    task: Task


def package(
    weights: str | Path, output: str | Path, url: str | None = None, bundle_root: str | Path | None = None
) -> Path:
    """Write ``output/<name>/`` and ``output/<name>_v<version>.zip``.

    Args:
        weights: ``model.pt`` of a training run of this bundle, or one of its checkpoints.
        output: Folder to write to; its other files stay.
        url: URL from which weights of more than 25 MB will be downloaded, for ``large_files.yml``.
        bundle_root: Folder of the bundle whose configs are merged; None: the current folder, or ``bundle`` in it.
    Returns:
        The bundle's folder.
    Raises:
        FileNotFoundError: If the weights or the bundle are missing.
        FileExistsError: If the output exists.
        ValueError: If the weights were not trained by this bundle, do not fit its configs, or are large and ``url`` is
            missing.
    """
    root, output = bundle_here_or_installed(bundle_root), Path(output)
    trained = _read(Path(weights))
    name = _name(trained.task)
    folder, zipped = output / name, output / f"{name}_v{__version__}.zip"
    for existing in (folder, zipped):
        if existing.exists():
            raise FileExistsError(f"{existing} exists already; remove it, or give another --output")
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output, prefix=".unfinished.") as unfinished:
        bundle = Path(unfinished) / name
        for part in ("configs", "docs", "models"):
            (bundle / part).mkdir(parents=True)
        _write_configs(root, bundle, trained)
        _write_weights(bundle, trained, url)
        _write_metadata(root, bundle, trained, _checked_network(bundle))
        _write_docs(root, bundle, trained.task)
        code = Path(monai_idm.__file__).parent
        shutil.copytree(code, bundle / code.name, ignore=shutil.ignore_patterns("__pycache__"))
        archive = shutil.make_archive(str(Path(unfinished) / zipped.stem), "zip", unfinished, name)
        bundle.rename(folder)
        Path(archive).rename(zipped)
    _logger.info("%s, and %s", folder, zipped)
    return folder


def _name(task: Task) -> str:
    return _BUNDLE if task.name == "generation" else f"{_BUNDLE}_{task.name}"


def _configs(task: Task) -> dict[str, tuple[str, ...]]:
    """The config files of a bundle, and the files that each is merged from."""
    if task.name == "generation":
        evaluations = {name: ("train", name) for name in ("evaluate", "evaluate_generation")}
        return {"train": ("train",), **evaluations, "inference": ("inference",)}
    return {
        "train": ("train", task.name),
        "evaluate": ("train", task.name, f"evaluate_{task.name}"),
        "inference": (f"inference_{task.name}",),
    }


def _read(weights: Path) -> _Weights:
    """Read weights, and remove the paths of this machine from their record."""
    if not weights.is_file():
        raise FileNotFoundError(f"no weights at {weights}; give the model.pt of a training run")
    state_dict, sections = read_weights(weights)
    if not {"arguments", "record"} <= sections.keys() or "data" not in sections["record"]:
        raise ValueError(
            f"{weights} does not record its network and training; give the model.pt that train.yaml, alone or with "
            f"segmentation.yaml or synthesis.yaml, wrote for an InvertibleDiffusionUNet"
        )
    data = sections["record"]["data"]
    data["source"] = Path(data["source"]).name
    kind, settings = task_of(sections["record"]), sections["record"]["convention"]
    task = kind(**{name: settings[name] for name in setting_names(kind) if name in settings})
    return _Weights(state_dict, sections["arguments"], sections["record"], task)


def _write_configs(root: Path, bundle: Path, trained: _Weights) -> None:
    settings = _settings(trained)
    for name, parts in _configs(trained.task).items():
        content = ConfigParser.load_config_files([root / "configs" / f"{part}.yaml" for part in parts])
        knobs = {**_PLACES, **settings}
        if name == "inference":
            knobs["output_dir"] = f"{_PLACES['output_dir']} + '/{name}'"
        if name != "train":
            content["trained"]["untrained"] = settings  # for tools that read a bundle without its weights
        content |= {knob: value for knob, value in knobs.items() if knob in content}
        content["initialize"] = [f"$monai_idm.require_version('{__version__}')", *content["initialize"]]
        _write_json(bundle / "configs" / f"{name}.json", content)
    for name in _OVERLAYS:
        _write_json(
            bundle / "configs" / f"{name}.json", yaml.safe_load((root / "configs" / f"{name}.yaml").read_text())
        )
    shutil.copy(root / "configs" / "logging.conf", bundle / "configs")


def _write_json(file: Path, content: Mapping[str, Any]) -> None:
    """Write JSON, although people read YAML more easily: monai.bundle.load finds nothing else."""
    file.write_text(json.dumps(content, indent=4) + "\n")


def _checked_network(bundle: Path) -> InvertibleDiffusionUNet:
    """The network that the bundle's config makes, with the bundle's weights; raises if they do not fit."""
    config = ConfigParser()
    config.read_config(bundle / "configs" / "inference.json")
    config.update({"device": "cpu", "bundle_root": str(bundle)})
    network: InvertibleDiffusionUNet = config.get_parsed_content("network")
    network.load_state_dict(read_weights(bundle / "models" / "model.pt")[0])
    return network


def _settings(trained: _Weights) -> dict[str, Any]:
    """The knobs at the top of the configs, with the values of the training run."""
    arguments = trained.arguments
    preset = preset_of(arguments)
    if preset is None:
        raise ValueError(
            f"the weights are of a network with channels={arguments['channels']}, "
            f"num_res_blocks={arguments['num_res_blocks']}, attention_levels={arguments['attention_levels']}, which is "
            f"none of the presets {', '.join(PRESETS)}; a bundle's configs name a preset, so train one of these"
        )
    convention = dict(trained.record["convention"])
    if convention.get("numeric_conditions") is None:  # then the bundle can still be trained with a table
        convention.pop("numeric_conditions", None)
    return {
        **convention,
        "preset": preset,
        "bookend_stride": arguments["bookend_stride"],
        "spatial_size": trained.record["data"]["spatial_size"],
    }


def _write_metadata(root: Path, bundle: Path, trained: _Weights, network: InvertibleDiffusionUNet) -> None:
    data, task = trained.record["data"], trained.task
    inputs, outputs = task.inputs, predicted_channels(task, trained.record["convention"]["prediction_type"])
    phantom = data["source"] == PHANTOM
    metadata = json.loads((root / "configs" / "metadata.json").read_text())
    metadata["required_packages_version"].pop("monai-idm")  # the bundle holds its code
    metadata |= {
        "name": task.title,
        "task": task.description,
        "description": f"{task.description}; trained on {data['num_cases']} "
        + (
            "generated phantoms, no patient's data: weights for a demonstration"
            if phantom
            else f"cases of {data['source']}"
        )
        + (f"; conditioned on {describe_conditions(task.numeric_conditions)}" if task.numeric_conditions else ""),
        "data_source": "generated phantoms" if phantom else data["source"],
        "image_classes": ", ".join(inputs),
        "label_classes": task.label_classes,
        "pred_classes": ", ".join(outputs),
    }
    for side, channels in (("inputs", inputs), ("outputs", outputs)):
        (tensor,) = metadata["network_data_format"][side].values()
        tensor["num_channels"] = len(channels)
        tensor["spatial_shape"] = [f"{network.divisor}*n"] * network.spatial_dims
        tensor["channel_def"] = {str(number): channel for number, channel in enumerate(channels)}
    _write_json(bundle / "configs" / "metadata.json", metadata)


def _write_weights(bundle: Path, trained: _Weights, url: str | None) -> None:
    file = bundle / "models" / "model.pt"
    torch.save(trained.state_dict, file)
    if file.stat().st_size <= LARGE_FILE_BYTES:
        return
    if url is None:
        raise ValueError(
            f"the weights have {file.stat().st_size / 1e6:.0f} MB, and the Model Zoo keeps files of more than "
            f"{LARGE_FILE_BYTES / 1e6:.0f} MB elsewhere; give the URL where you will put them, with --url"
        )
    entry = {"path": "models/model.pt", "url": url, "hash_val": fingerprint(file), "hash_type": "sha256"}
    (bundle / "large_files.yml").write_text(yaml.dump({"large_files": [entry]}, sort_keys=False, width=10**6))


def _write_docs(root: Path, bundle: Path, task: Task) -> None:
    shutil.copy(root / "LICENSE", bundle)
    for page in (*_PAGES, "data_license.txt"):
        text = (root / "docs" / page).read_text()
        # pages that do not travel with a bundle are named without a link
        (bundle / "docs" / page).write_text(re.sub(rf"\[([^]]+)\]\((?!https?:|{'|'.join(_PAGES)})[^)]+\)", r"\1", text))
    commands = "\n".join(
        f"python -m monai.bundle run --config_file configs/{name}.json --dataset_dir /data/BraTS2020"
        for name in _configs(task)
    )
    several = f"['configs/train.json','configs/{_OVERLAYS[0]}.json']"
    commands += (
        f'\ntorchrun --nproc_per_node=4 -m monai.bundle run --config_file "{several}" --dataset_dir /data/BraTS2020'
    )
    readme = (root / "docs" / "README.md").read_text()
    readme = re.sub(r"(?<=^```bash\n).*?(?=^```$)", f"{commands}\n", readme, count=1, flags=re.DOTALL | re.MULTILINE)
    (bundle / "docs" / "README.md").write_text(readme)
