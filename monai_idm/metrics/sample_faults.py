r"""Faults of generated volumes, found by comparison with real ones: noise, black, saturation, background, collapse.

The roughness of a volume, :math:`\overline{|\nabla x|} / \sigma_x` with differences of neighbours along an axis, is
:math:`2 / \sqrt\pi = 1.13` for white noise of any strength.
"""

from __future__ import annotations

import math
from itertools import combinations, islice

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool3d

__all__ = ["SampleFaults", "roughness"]

WHITE = 2 / math.sqrt(math.pi)  # roughness of white noise
PAIRED = 8  # most real volumes that are compared with each other
CAUSES = {
    "noise": "trained too briefly or with too high a learning_rate, or sampled with another prediction_type or "
    "schedule than trained with",
    "black": "a network that predicts nothing: a learning_rate too high, or weights that were not loaded",
    "saturated": "a learning_rate too high, too few steps of the sampler, or another network_range than trained with",
    "background": "because sampling starts from a mean brightness that training never saw: set zero_terminal_snr, or "
    "train longer",
    "collapsed": "too few training cases, or trained until they are repeated",
}


class SampleFaults:
    """Collect statistics of real volumes, then look for faults in generated ones."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget all volumes."""
        self._roughness: list[Tensor] = []
        self._spread: list[Tensor] = []
        self._bright: list[float] = []
        self._coarse: list[Tensor] = []
        self._brain: Tensor | None = None
        self._air: list[float] = []

    @torch.no_grad()
    def update(self, image: Tensor, mask: Tensor) -> None:
        """Add a real volume.

        Args:
            image: Volume ``(C, D, H, W)``, 0 to 1.
            mask: Brain mask ``(1, D, H, W)``.
        """
        image, inside = _on_cpu(image), _on_cpu(mask)[0] > 0
        self._roughness.append(roughness(image))
        self._spread.append(image.flatten(1).std(1))
        self._bright.append(_bright_share(image, inside))
        self._air.append(float(image[:, ~inside].mean()) if not inside.all() else 0.0)
        self._brain = inside if self._brain is None else self._brain | inside
        if len(self._coarse) < PAIRED:
            self._coarse.append(_downsampled(image))

    @torch.no_grad()
    def found(self, volumes: Tensor) -> dict[str, str]:
        """The faults of generated volumes, with their likely causes.

        Args:
            volumes: Volumes ``(N, C, D, H, W)``, 0 to 1, of the same size as the real ones.
        Returns:
            A sentence for each fault that was found, by its name: ``"noise"``, ``"black"``, ``"saturated"``,
            ``"background"`` or ``"collapsed"``; empty if there is none, or if no real volume was added.
        """
        if not self._roughness or self._brain is None:
            return {}
        volumes = _on_cpu(volumes)
        faults = {}
        real = float(torch.stack(self._roughness).mean())
        rough = max(float(roughness(volume).max()) for volume in volumes)
        if rough > min(2 * real, (real + WHITE) / 2):
            faults["noise"] = f"are noisy: roughness {rough:.2f}; real volumes {real:.2f}, white noise {WHITE:.2f}"
        spread = min(float((v.flatten(1).std(1) / torch.stack(self._spread).mean(0)).min()) for v in volumes)
        if spread < 0.2:
            faults["black"] = f"are black or of one grey: contrast {spread:.2f} of that of real volumes"
        bright, real = max(_bright_share(volume, self._brain) for volume in volumes), max(self._bright)
        if bright > real + 0.2:
            faults["saturated"] = f"are saturated: {bright:.0%} of the brain is white; real volumes {real:.0%}"
        air = ~self._brain
        if air.sum() >= 8 and "noise" not in faults:
            grey = max(float(volume[:, air].mean()) for volume in volumes)
            if grey > max(self._air) + 0.1:
                faults["background"] = f"have no background: {grey:.2f} where real volumes are {max(self._air):.2f}"
        if len(volumes) > 1 and len(self._coarse) > 1 and "black" not in faults:
            apart, real = (_mean_distance(some) for some in ([_downsampled(v) for v in volumes], self._coarse))
            if apart < 0.25 * real:
                faults["collapsed"] = f"are all alike: {apart:.3f} apart; real volumes {real:.3f}"
        return {name: f"generated volumes {what}; likely {CAUSES[name]}" for name, what in faults.items()}


def roughness(volume: Tensor) -> Tensor:
    """Mean difference of neighbours over the standard deviation, by channel: ``(C,)``; 0 for a constant channel."""
    steps = [volume.diff(dim=axis).abs().flatten(1).mean(1) for axis in range(1, volume.ndim)]
    spread = volume.flatten(1).std(1)
    return torch.where(spread > 1e-4, torch.stack(steps).mean(0) / spread.clamp(min=1e-4), 0.0)


def _bright_share(volume: Tensor, inside: Tensor) -> float:
    return float((volume[:, inside] > 0.98).float().mean())


def _downsampled(volume: Tensor) -> Tensor:
    depth, height, width = (min(n, 16) for n in volume.shape[1:])
    return adaptive_avg_pool3d(volume, (depth, height, width))


def _mean_distance(volumes: list[Tensor]) -> float:
    distances = [float((a - b).square().mean().sqrt()) for a, b in islice(combinations(volumes, 2), 1000)]
    return sum(distances) / len(distances)


def _on_cpu(volume: Tensor) -> Tensor:
    return volume.as_subclass(Tensor).detach().cpu().float()
