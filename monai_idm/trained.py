"""The settings that trained weights carry, and the parts of a run that follow from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.config import KeysCollection

from monai_idm.checkpoints import differences, fingerprint, grid_is_fixed, read_weights, warn_of_unrecorded
from monai_idm.data import BrainToGridd
from monai_idm.networks import InvertibleDiffusionUNet
from monai_idm.networks.presets import preset_of
from monai_idm.schedulers import StridedDDPMScheduler, StridedScheduler, named_sampler
from monai_idm.tasks import DrawingInferer, Task, task_named
from monai_idm.tasks.task import setting_names

__all__ = ["TrainedModel", "task_of"]

# the defaults of train.yaml; a task may override them
_DEFAULTS: Mapping[str, Any] = {
    "preset": "light",
    "bookend_stride": 1,
    "network_range": [-1.0, 1.0],
    "window_percentiles": [0.5, 99.5],
    "num_train_timesteps": 2000,
    "schedule": "cosine",
    "prediction_type": "flow",
    "zero_terminal_snr": False,
    "noise_shift": 1.0,
    "zoom": True,
    "spatial_size": None,
}


class TrainedModel:
    """The settings that a result depends on besides the weights, by their names in a config: ``trained["zoom"]``.

    They come from the record of the weights. The defaults of train.yaml and ``untrained`` are used while there are no
    weights, as when a tool inspects a bundle, and for settings that version 0.1.0 did not record.

    Args:
        file: File of the weights.
        task: Name of the config's task.
        untrained: Settings that differ from the defaults while there are no weights.
        free: Settings for which a run may choose other values than training did.
    Raises:
        DamagedFile: If the file has changed since it was written.
        ValueError: If the weights were trained for another task.
    """

    def __init__(
        self, file: str | Path, task: str, untrained: Mapping[str, Any] | None = None, free: Sequence[str] = ()
    ) -> None:
        kind = task_named(task)
        self.file = Path(file)
        self.free = (*free,)
        self.defaults: dict[str, Any] = {**_DEFAULTS, **kind.defaults, **(untrained or {})}
        self.record: dict[str, Any] = {}
        self._kind = kind
        self._recorded = self._read() if self.file.is_file() else {}
        self._settings = {**self.defaults, **self._recorded}

    def __getitem__(self, setting: str) -> Any:
        return self._settings[setting]

    def reconcile(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Compare settings that a user gave with the weights; settings that are not recorded are accepted.

        Returns:
            The settings that the weights record, and those that were given.
        Raises:
            ValueError: If a setting contradicts the weights; the message has both values.
        """
        refused = {
            name: _short(name, value)
            for name, value in given.items()
            if name in self._recorded and not self._accepts(name, value)
        }
        if different := differences({name: _short(name, self[name]) for name in refused}, refused):
            raise ValueError(
                f"{self.file} was trained with other settings ({'; '.join(different)}); leave these knobs out, because "
                "the weights determine them, or choose other weights with --ckpt_file"
            )
        if "preset" in self._recorded:  # the given one may be a name
            given = {**given, "preset": self["preset"]}
        self._settings |= given
        if self.record:
            warn_of_unrecorded(self.record, self._settings)
        return {**self._recorded, **given}

    @property
    def task(self) -> Task:
        """The task with the settings of its training."""
        return self._kind(**{name: self[name] for name in setting_names(self._kind)})

    @property
    def spacing_mm(self) -> float:
        """Voxel size of the training grid; 1 mm if the weights do not record it."""
        return self.record.get("data", {}).get("spacing_mm", 1.0)

    @property
    def sha256(self) -> str | None:
        """Fingerprint of the file; None if it does not exist."""
        return fingerprint(self.file)

    def network(self, **options: Any) -> InvertibleDiffusionUNet:
        """The network, without the weights.

        Args:
            options: Arguments of InvertibleDiffusionUNet that do not change the weights, such as ``precision``.
        """
        task = self.task
        return InvertibleDiffusionUNet.from_preset(
            self["preset"],
            in_channels=len(task.inputs),
            out_channels=len(task.drawn),
            num_class_embeds=task.num_classes,
            num_conditions=len(task.condition_names),
            bookend_stride=self["bookend_stride"],
            **options,
        )

    def sampler(
        self,
        name: str,
        num_inference_steps: int | None = None,
        variance_type: str = "fixed_small",
        timestep_spacing: str = "trailing",
    ) -> StridedScheduler:
        """The scheduler to sample with.

        Args:
            name: Name of the sampler; see :func:`~monai_idm.schedulers.named_sampler`.
            num_inference_steps: Number of steps; None: DDPM with every timestep of the training.
            variance_type: Variance of DDPM's steps.
            timestep_spacing: How the timesteps of a number of steps are chosen, as in
                :class:`~monai_idm.schedulers.StridedScheduler`.
        """
        low, high = self["network_range"]
        training = ("num_train_timesteps", "schedule", "prediction_type", "zero_terminal_snr", "noise_shift")
        noise = {**{setting: self[setting] for setting in training}, "clip_sample_min": low, "clip_sample_max": high}
        if num_inference_steps is None:
            return StridedDDPMScheduler(**noise, variance_type=variance_type)
        steps = {"num_inference_steps": num_inference_steps, "timestep_spacing": timestep_spacing}
        return named_sampler(name, **noise, **steps)

    def inferer(
        self,
        sampler: str,
        num_inference_steps: int | None = None,
        num_draws: int = 1,
        window: Sequence[int] | int | None = None,
        seed: int = 0,
    ) -> DrawingInferer:
        """The inferer that draws under the task's condition; for the arguments see ``sampler`` and DrawingInferer."""
        return DrawingInferer(self.sampler(sampler, num_inference_steps), self.task, num_draws, window, seed)

    def to_grid(self, keys: KeysCollection, **options: Any) -> BrainToGridd:
        """The preprocessing of the training; for the arguments see BrainToGridd."""
        names = ("spatial_size", "zoom", "window_percentiles", "network_range")
        return BrainToGridd(keys, **{name: self[name] for name in names}, **options)

    def _read(self) -> dict[str, Any]:
        """The settings that the file records."""
        recorded = read_weights(self.file)[1]
        self.record, arguments = recorded.get("record", {}), recorded.get("arguments", {})
        settings = dict(self.record.get("convention", {}))
        if settings and task_of(self.record) is not self._kind:
            raise ValueError(
                f"{self.file} holds weights for {task_of(self.record).name}, but this config is for "
                f"{self._kind.name}; use the config of that task, or choose other weights with --ckpt_file"
            )
        if "data" in self.record:
            settings["spatial_size"] = self.record["data"]["spatial_size"]
        if arguments:
            # the weights of an inverse head are left out: no prediction uses them
            settings["preset"] = {**arguments, "inverse_head": False}
            settings["bookend_stride"] = arguments["bookend_stride"]
        return settings

    def _accepts(self, name: str, given: Any) -> bool:
        if name in self.free or (name == "spatial_size" and not grid_is_fixed(self._recorded)):
            return True
        if name == "preset":
            return given in (self[name], preset_of(self[name]))
        return self._kind.accepts(name, self[name], given)


def task_of(record: Mapping[str, Any]) -> type[Task]:
    """The task that weights were trained for.

    Args:
        record: Record of the weights; versions before 0.3.0 did not record the task.
    """
    convention = record["convention"]
    inferred = "segmentation" if "regions" in convention else "synthesis" if "known" in convention else "generation"
    return task_named(record.get("task", inferred))


def _short(name: str, value: Any) -> Any:
    """A setting as errors show it: for a network's arguments, the name of their preset or their channels."""
    if name == "preset" and isinstance(value, Mapping):
        return preset_of(value) or f"a network of channels={value['channels']}"
    return value
