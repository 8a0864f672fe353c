r"""The paper's loss.

.. math:: L = \|\epsilon - U(x_t, t)\|^2 + \lambda_R \|x_t - U^{-1}(U(x_t, t))\|^2 + \lambda_{L2} \|W\|_2 \quad (8)

The last term is the optimizer's (:class:`~monai_idm.optimizers.AdamWWeightNorm`).
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn.functional import mse_loss

__all__ = ["InvertibleDiffusionLoss"]


class InvertibleDiffusionLoss:
    """The first two terms of eq. 8, for a trainer that gives a loss the prediction and its target.

    Args:
        network: An InvertibleDiffusionUNet, with ``inverse_head`` where ``lambda_r`` is not 0. It is asked for the
            input of its last forward pass in training.
        lambda_r: Weight of the second term, 0 to 1; the paper's 0 costs nothing.
    Raises:
        ValueError: If ``lambda_r`` is out of range or the network has no inverse.
    Source: eq. 8 of arXiv:2504.10883.
    """

    def __init__(self, network: Any, lambda_r: float = 0.0) -> None:
        if not 0 <= lambda_r <= 1:
            raise ValueError(f"lambda_r={lambda_r}; choose 0 to 1")
        if lambda_r and getattr(network, "inverse_head", None) is None:
            raise ValueError(
                f"lambda_r={lambda_r} trains the inverse of the network, but this one has none; build it with "
                f"inverse_head=True"
            )
        self.network = network
        self.lambda_r = lambda_r
        self._input: Tensor | None = None
        if lambda_r:
            network.register_forward_pre_hook(self._remember, with_kwargs=True)

    def __call__(self, prediction: Tensor, target: Tensor) -> Tensor:
        loss = mse_loss(prediction, target).clone()  # the number alone: torch's keeps memory as large as the target
        if not self.lambda_r or self._input is None:
            return loss
        x, self._input = self._input, None
        return loss + self.lambda_r * mse_loss(self.network.inverse(prediction), x)

    def _remember(self, network: Any, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        if network.training:
            self._input = (inputs[0] if inputs else named["x"]).detach()
