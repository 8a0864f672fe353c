r"""The paper's loss, and min-SNR weights that keep single noise levels from dominating it.

.. math::
    L = w_t \|\epsilon - U(x_t, t)\|^2 + \lambda_R \|x_t - U^{-1}(U(x_t, t))\|^2 + \lambda_{L2} \|W\|_2 \quad (8)

The last term is the optimizer's (:class:`~monai_idm.optimizers.AdamWWeightNorm`). In the paper :math:`w_t = 1`;
min-SNR-:math:`\gamma` weights the error of the predicted image by :math:`\min(\text{SNR}, \gamma)`, with
:math:`\text{SNR} = \bar\alpha_t / (1 - \bar\alpha_t)`, and so the error of predicted noise by
:math:`\min(1, \gamma / \text{SNR})`, that of a predicted velocity by
:math:`\min(\text{SNR}, \gamma) / (\text{SNR} + 1)`, and that of a flow by :math:`\min(\text{SNR}, \gamma) \sigma_t^2`
with :math:`\text{SNR} = (1 - \sigma_t)^2 / \sigma_t^2`.

Source: eq. 8 of arXiv:2504.10883; min-SNR: Hang et al. 2023, arXiv:2303.09556.
"""

from __future__ import annotations

from typing import Any

import torch
from monai.networks.schedulers.scheduler import Scheduler
from torch import Tensor
from torch.nn.functional import mse_loss

from monai_idm.schedulers import is_flow, noise_levels

__all__ = ["InvertibleDiffusionLoss", "min_snr_weights"]


class InvertibleDiffusionLoss:
    """The first two terms of eq. 8.

    Args:
        network: Any diffusion network; for ``lambda_r`` an InvertibleDiffusionUNet with ``inverse_head``.
        lambda_r: Weight of the second term, 0 to 1; the paper's 0 costs nothing.
        min_snr_gamma: Gamma of the min-SNR weights, such as 5; None: all weights are 1.
        scheduler: Training scheduler, whose noise levels the weights are computed from.
    Raises:
        ValueError: If ``lambda_r`` is out of range or the network has no inverse; if gamma is not positive, or comes
            without a scheduler; when called, if an argument that a term needs is missing.
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
            raise ValueError(
                f"min_snr_gamma={min_snr_gamma}; choose a number above 0, such as 5, and give the scheduler"
            )
        self.network = network
        self.lambda_r = lambda_r
        self.min_snr_gamma = min_snr_gamma
        self.scheduler = scheduler

    def __call__(
        self,
        prediction: Tensor,
        target: Tensor,
        x: Tensor | None = None,
        timesteps: Tensor | None = None,
        output: Tensor | None = None,
    ) -> Tensor:
        """The loss, a scalar.

        Args:
            prediction: Prediction to compare with the target, ``(B, C, *spatial)``.
            target: Target of the same shape.
            x: Input of the network, needed with ``lambda_r``.
            timesteps: Timesteps ``(B,)``, needed with ``min_snr_gamma``.
            output: Output of the network, for ``lambda_r``, if it differs from the prediction because part of it was
                masked; None: the prediction.
        """
        if self.min_snr_gamma is None:
            loss = mse_loss(prediction, target).clone()  # a copy: torch's scalar keeps memory as large as the target
        elif timesteps is None:
            raise ValueError(
                f"min_snr_gamma={self.min_snr_gamma} needs the timesteps; give them to the loss, as TrainingStep does"
            )
        else:
            assert self.scheduler is not None
            weights = min_snr_weights(self.scheduler, timesteps, self.min_snr_gamma).to(prediction)
            errors = torch.stack([mse_loss(p, q).clone() for p, q in zip(prediction, target, strict=True)])
            loss = (weights * errors).mean()
        if self.lambda_r:
            if x is None:
                raise ValueError(
                    f"lambda_r={self.lambda_r} needs the network's input x; give it to the loss, as TrainingStep does"
                )
            rebuilt = self.network.inverse(prediction if output is None else output)
            loss = loss + self.lambda_r * mse_loss(rebuilt, x)
        return loss


def min_snr_weights(scheduler: Scheduler, timesteps: Tensor, gamma: float) -> Tensor:
    """Min-SNR weights of the squared error of the network's prediction.

    Args:
        scheduler: A scheduler of MONAI or this package that has a ``prediction_type``.
        timesteps: Timesteps ``(B,)``.
        gamma: Largest weight of the predicted image's error.
    Returns:
        Weights ``(B,)``, float32.
    """
    if is_flow(scheduler):
        alpha, sigma = noise_levels(scheduler, timesteps.float())
        return (alpha / sigma).square().clamp(max=gamma) * sigma.square()
    alpha_bar = scheduler.alphas_cumprod[timesteps.to(scheduler.alphas_cumprod.device).long()].float()
    snr = alpha_bar / (1 - alpha_bar)
    if scheduler.prediction_type == "sample":
        return snr.clamp(max=gamma)
    if scheduler.prediction_type == "v_prediction":
        return snr.clamp(max=gamma) / (snr + 1)
    return (gamma / snr).clamp(max=1)
