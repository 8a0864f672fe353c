r"""The paper's loss, and weights that keep one noise level from drowning the others.

.. math::
    L = w_t \|\epsilon - U(x_t, t)\|^2 + \lambda_R \|x_t - U^{-1}(U(x_t, t))\|^2 + \lambda_{L2} \|W\|_2 \quad (8)

The last term is the optimizer's (:class:`~monai_idm.optimizers.AdamWWeightNorm`). In the paper :math:`w_t = 1`;
min-SNR-:math:`\gamma` weights the error of the predicted image by :math:`\min(\text{SNR}, \gamma)`, with
:math:`\text{SNR} = \bar\alpha_t / (1 - \bar\alpha_t)`: that of noise by :math:`\min(1, \gamma / \text{SNR})`, that of a
velocity by :math:`\min(\text{SNR}, \gamma) / (\text{SNR} + 1)`.

Source: eq. 8 of arXiv:2504.10883; min-SNR: Hang et al. 2023, arXiv:2303.09556.
"""

from __future__ import annotations

from typing import Any

import torch
from monai.networks.schedulers.scheduler import Scheduler
from torch import Tensor
from torch.nn.functional import mse_loss

__all__ = ["InvertibleDiffusionLoss", "min_snr_weights"]


class InvertibleDiffusionLoss:
    """The first two terms of eq. 8, for a trainer that gives a loss the prediction and its target.

    Args:
        network: Any diffusion network; for ``lambda_r`` an InvertibleDiffusionUNet with ``inverse_head``. It is asked
            for the input and the timesteps of its last forward pass in training.
        lambda_r: Weight of the second term, 0 to 1; the paper's 0 costs nothing.
        min_snr_gamma: Gamma of the weights, as 5; None: all are 1.
        scheduler: Of training, whose noise levels the weights follow.
    Raises:
        ValueError: If ``lambda_r`` is out of range or the network has no inverse; if gamma is not positive, or comes
            without a scheduler.
    """

    def __init__(
        self,
        network: Any,
        lambda_r: float = 0.0,
        min_snr_gamma: float | None = None,
        scheduler: Scheduler | None = None,
    ) -> None:
        if not 0 <= lambda_r <= 1:
            raise ValueError(f"lambda_r={lambda_r}; choose 0 to 1")
        if lambda_r and getattr(network, "inverse_head", None) is None:
            raise ValueError(
                f"lambda_r={lambda_r} trains the inverse of the network, but this one has none; build it with "
                f"inverse_head=True"
            )
        if min_snr_gamma is not None and (min_snr_gamma <= 0 or scheduler is None):
            raise ValueError(f"min_snr_gamma={min_snr_gamma}; choose a number above 0, as 5, and give the scheduler")
        self.network = network
        self.lambda_r = lambda_r
        self.min_snr_gamma = min_snr_gamma
        self.scheduler = scheduler
        self._input: Tensor | None = None
        self._timesteps: Tensor | None = None
        if lambda_r or min_snr_gamma is not None:
            network.register_forward_pre_hook(self._remember, with_kwargs=True)

    def __call__(self, prediction: Tensor, target: Tensor) -> Tensor:
        x, timesteps, self._input, self._timesteps = self._input, self._timesteps, None, None
        if self.scheduler is not None and self.min_snr_gamma is not None and timesteps is not None:
            weights = min_snr_weights(self.scheduler, timesteps, self.min_snr_gamma).to(prediction)
            errors = torch.stack([mse_loss(p, q).clone() for p, q in zip(prediction, target, strict=True)])
            loss = (weights * errors).mean()
        else:
            loss = mse_loss(prediction, target).clone()  # the number alone: torch's keeps memory as large as the target
        if self.lambda_r and x is not None:
            loss = loss + self.lambda_r * mse_loss(self.network.inverse(prediction), x)
        return loss

    def _remember(self, network: Any, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        if network.training:
            self._input = (inputs[0] if inputs else named["x"]).detach() if self.lambda_r else None
            self._timesteps = inputs[1] if len(inputs) > 1 else named.get("timesteps")


def min_snr_weights(scheduler: Scheduler, timesteps: Tensor, gamma: float) -> Tensor:
    """Weights of the squared error of what the network predicts.

    Args:
        scheduler: Any of MONAI's or of ours with a ``prediction_type``.
        timesteps: ``(B,)``.
        gamma: The largest weight of the predicted image's error.
    Returns:
        ``(B,)``, float32.
    """
    alpha_bar = scheduler.alphas_cumprod[timesteps.to(scheduler.alphas_cumprod.device).long()].float()
    snr = alpha_bar / (1 - alpha_bar)
    if scheduler.prediction_type == "sample":
        return snr.clamp(max=gamma)
    if scheduler.prediction_type == "v_prediction":
        return snr.clamp(max=gamma) / (snr + 1)
    return (gamma / snr).clamp(max=1)
