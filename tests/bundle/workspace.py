"""Small runs of the bundle's configs."""

from __future__ import annotations

from pathlib import Path

from monai.bundle import ConfigWorkflow

CONFIGS = Path(__file__).parents[2] / "bundle" / "configs"

# the demo, smaller, but with every part
TINY = {
    "device": "$torch.device('cpu')",
    "demo#num_subjects": 5,
    "demo#phantom_size": [32, 32, 24],
    "demo#spatial_size": [16, 16, 16],
    "demo#epoch_length": 2,
    "demo#max_epochs": 2,
    "demo#val_interval": 2,  # pictures take longer than steps
    "num_inference_steps": 4,
    "ema_interval": 1,
    "activations": "stored",  # auto estimates the memory of a step first, which takes longer than the steps
}


def workflow(configs: str | list[str], kind: str, folder: Path, **overrides) -> ConfigWorkflow:
    """A workflow of the given configs that writes to a folder.

    Args:
        configs: Names without suffix.
        kind: ``"train"`` or ``"infer"``.
        folder: For everything written.
        overrides: Config values to replace.
    """
    files = [str(CONFIGS / f"{name}.yaml") for name in ([configs] if isinstance(configs, str) else configs)]
    places = {"bundle_root": str(CONFIGS.parent), "output_dir": str(folder / "output")}
    return ConfigWorkflow(config_file=files, workflow_type=kind, logging_file=False, **{**places, **overrides})


def train(folder: Path, configs: str | list[str] = "train", **overrides) -> ConfigWorkflow:
    """Train the demo at tiny size; models go to ``folder / "models"``."""
    run = workflow(configs, "train", folder, **{**TINY, "ckpt_dir": str(folder / "models"), **overrides})
    run.initialize()
    run.run()
    return run


def sample(trained: Path, folder: Path, **overrides) -> Path:
    """Draw two samples of the model of a training; returns the folder that they are in.

    Args:
        trained: The folder of the training.
        folder: For everything written.
        overrides: Config values to replace.
    """
    few = {"device": TINY["device"], "num_inference_steps": 4, "num_samples": 2}
    weights = {"ckpt_file": str(trained / "models" / "model.pt")}
    run = workflow("inference", "infer", folder, **{**weights, **few, **overrides})
    run.initialize()
    run.run()
    return folder / "output"


def chain(error: BaseException | None) -> str:
    """The messages of an error and of all its causes: MONAI wraps errors."""
    return "" if error is None else f"{error}\n{chain(error.__cause__)}"
