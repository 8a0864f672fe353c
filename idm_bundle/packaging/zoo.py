"""The checks of the Model Zoo's CI, and of what our bundles promise beyond it, without network access.

This file runs alone, in a process that imports the bundle's own code first: the only part of this project that is used
is the code inside the bundle.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import tempfile
import warnings
from importlib import import_module, util
from pathlib import Path
from typing import Any

LARGE_FILE_BYTES = 25 * 10**6  # larger files are not kept in the Model Zoo's repository

# the rules of MONAI's schema of 2024-07-25
_TENSOR = {
    "type": "object",
    "required": ["type", "format", "num_channels", "spatial_shape", "dtype", "value_range"],
    "properties": {
        "num_channels": {"type": "integer"},
        "spatial_shape": {"type": "array", "items": {"type": ["string", "integer"]}},
        "value_range": {"type": "array", "items": {"type": "number"}},
        "is_patch_data": {"type": "boolean"},
        "channel_def": {"type": "object"},
    },
}
_TENSORS = {"type": "object", "minProperties": 1, "additionalProperties": _TENSOR}
_TEXTS = ["schema", "version", "monai_version", "pytorch_version", "numpy_version", "task", "description", "authors"]
_TEXTS += ["copyright"]
SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": [*_TEXTS, "required_packages_version", "network_data_format"],
    "properties": {
        **{name: {"type": "string"} for name in (*_TEXTS, "intended_use", "data_source", "data_type")},
        **{name: {"type": "object"} for name in ("changelog", "required_packages_version", "supported_apps")},
        "references": {"type": "array", "items": {"type": "string"}},
        "network_data_format": {
            "type": "object",
            "required": ["inputs", "outputs"],
            "properties": {"inputs": _TENSORS, "outputs": _TENSORS},
        },
    },
}
_TOLERANCE = {"TorchScript": 1e-5, "ONNX": 1e-4}


def check(folder: Path, mode: str, schema: Path | None) -> None:
    """Print the checks that the bundle passes; raise at the first that it fails."""
    _files(folder)
    _version(folder)
    _metadata(folder, schema)
    if mode == "full":
        _own_code(folder)
        _properties(folder)
        _network(folder)
        _exports(folder)


def _files(folder: Path) -> None:
    missing = [
        name for name in ("LICENSE", "configs/metadata.json", "models/model.pt") if not (folder / name).is_file()
    ]
    if _config(folder, "inference") is None:
        missing.append("configs/inference.json")
    if missing:
        raise ValueError(f"{folder} lacks {', '.join(missing)}; python -m idm_bundle package writes complete bundles")
    listed = (folder / "large_files.yml").read_text() if (folder / "large_files.yml").is_file() else ""
    for file in filter(Path.is_file, folder.rglob("*")):
        name = file.relative_to(folder).as_posix()
        if file.stat().st_size > LARGE_FILE_BYTES and f"path: {name}" not in listed:
            size = f"{LARGE_FILE_BYTES / 1e6:.0f} MB"
            raise ValueError(f"{name} has more than {size} and is not in large_files.yml; package it with --url")
    for file in (folder / "configs").iterdir():
        personal = re.search(r"(/home|/Users|/root|/mnt|[A-Z]:\\Users)[/\\]\w+", file.read_text())
        if personal:
            raise ValueError(
                f"{file.name} names {personal[0]}, a folder of one machine; write it relative to bundle_root"
            )
    print("files: complete, none too large, no personal path")


def _version(folder: Path) -> None:
    metadata = json.loads((folder / "configs" / "metadata.json").read_text())
    if metadata.get("version") not in metadata.get("changelog", {}):
        raise ValueError(f"version {metadata.get('version')} is not in metadata.json's changelog; add what it changed")
    print(f"version: {metadata['version']}, in the changelog")


def _metadata(folder: Path, schema: Path | None) -> None:
    from monai.bundle import verify_metadata

    if not util.find_spec("jsonschema"):  # MONAI's own error would name another reason
        raise ModuleNotFoundError("MONAI checks metadata with jsonschema, which is missing; pip install jsonschema")
    with tempfile.TemporaryDirectory() as scratch:
        file = schema or Path(scratch) / "schema.json"
        if schema is None:
            file.write_text(json.dumps(SCHEMA))
        verify_metadata(meta_file=str(folder / "configs" / "metadata.json"), filepath=str(file))
    print("metadata: follows MONAI's schema")


def _own_code(folder: Path) -> None:
    """Check that monai_idm is the bundle's, not another one that is installed."""
    code = Path(str(import_module("monai_idm").__file__))
    if folder.resolve() not in code.resolve().parents:
        raise ValueError(f"monai_idm comes from {code.parent}, not from the bundle, which lacks it")
    print("code: the bundle's own")


def _properties(folder: Path) -> None:
    from monai.bundle import ConfigParser, create_workflow

    small: dict[str, Any] = {"demo#num_subjects": 5, "demo#phantom_size": [32, 32, 24]}
    if "labels" in ConfigParser.load_config_file(str(_config(folder, "train"))):
        small["labels"] = {"tumour": [1, 2, 4]}  # the numbers in phantoms
    for kind, config, changes in (("train", "train", small), ("infer", "inference", {})):
        with tempfile.TemporaryDirectory() as scratch:
            workflow = create_workflow(
                config_file=str(_config(folder, config)),
                workflow_type=kind,
                bundle_root=str(folder),
                meta_file=str(folder / "configs" / "metadata.json"),
                logging_file=False,
                output_dir=scratch,  # where phantoms are written
                **changes,
            )
            wrong = workflow.check_properties()
        if wrong:
            raise ValueError(f"{config} lacks {', '.join(wrong)}, which MONAI's tools need")
    print("properties: all that MONAI's tools need")


def _network(folder: Path) -> None:
    from monai.bundle import verify_net_in_out

    verify_net_in_out(**_bundle_files(folder), bundle_root=str(folder), device="cpu")
    print("network: inputs and outputs as in metadata.json")


def _exports(folder: Path) -> None:
    import torch
    from monai.bundle import ConfigParser, ckpt_export

    config = ConfigParser()
    config.read_config(_bundle_files(folder)["config_file"])
    config.read_meta(folder / "configs" / "metadata.json")
    config["bundle_root"] = str(folder)  # otherwise weights in the current folder would decide the network
    (tensor,) = config["_meta_"]["network_data_format"]["inputs"].values()
    side = 2 * int(str(tensor["spatial_shape"][0]).partition("*")[0])
    network = config.get_parsed_content("network_def").eval()
    network.load_state_dict(torch.load(folder / "models" / "model.pt", weights_only=True))
    torch.manual_seed(0)
    x = torch.randn(2, tensor["num_channels"], *[side] * len(tensor["spatial_shape"]))
    given: dict[str, Any] = {"timesteps": torch.tensor([3, 700])}
    if getattr(network, "num_class_embeds", None) is not None:
        given["class_labels"] = torch.tensor([0, 1])
    if count := getattr(network, "arguments", {}).get("num_conditions"):
        given["conditions"] = torch.tensor([[0.5], [torch.nan]]).expand(2, count).clone()
    with torch.no_grad(), tempfile.TemporaryDirectory() as scratch:
        expected = network(x, **given)
        model = str(Path(scratch) / "model.ts")
        weights = str(folder / "models" / "model.pt")
        ckpt_export(**_bundle_files(folder), bundle_root=str(folder), filepath=model, ckpt_file=weights)
        _compare("TorchScript", torch.jit.load(model)(x, **given), expected)
        if util.find_spec("onnxruntime") and util.find_spec("onnxscript"):
            program: Any = torch.onnx.export(network, (x,), kwargs=given, dynamo=True, verbose=False)
            _compare("ONNX", program(x, **given)[0], expected)
        else:
            print("ONNX: not tried; pip install onnxscript onnxruntime")


def _compare(name: str, output: Any, expected: Any) -> None:
    error = float((output - expected).abs().max() / expected.abs().max())
    if error > _TOLERANCE[name]:
        raise ValueError(
            f"{name} differs by {error:.2g} of the largest value from the network, more than {_TOLERANCE[name]:g}"
        )
    print(f"{name}: exported, and differs by {error:.2g} of the largest value")


def _config(folder: Path, name: str) -> Path | None:
    files = [folder / "configs" / f"{name}.{suffix}" for suffix in ("json", "yaml", "yml")]
    return next(filter(Path.is_file, files), None)


def _bundle_files(folder: Path) -> dict[str, Any]:
    return {
        "net_id": "network_def",
        "meta_file": str(folder / "configs" / "metadata.json"),
        "config_file": str(_config(folder, "inference")),
    }


def main(folder: str, mode: str, *schemas: str) -> int:
    """Check a bundle; 0, or 1 after an error, which is printed."""
    logging.basicConfig(level=logging.ERROR)
    logging.disable(logging.WARNING)  # exporters log every optimisation
    warnings.simplefilter("ignore")
    sys.path.insert(0, folder)
    try:
        check(Path(folder), mode, Path(schemas[0]) if schemas else None)
    except Exception as error:  # the bundle's own code may raise anything
        while error.__cause__ is not None:  # MONAI wraps errors
            error = error.__cause__  # type: ignore[assignment]
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
