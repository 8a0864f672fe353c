"""The inverse of an operation as an operation, so that the inverse of a chain can be trained like the chain."""

from __future__ import annotations

from torch import Tensor, nn

from monai_idm.reversible.fixed_point import add_remainder, remainder
from monai_idm.reversible.operation import Policy, ReversibleOperation, Tensors

__all__ = ["Inverse"]


class Inverse(ReversibleOperation):
    """An operation with ``map`` and ``inverse`` exchanged.

    Args:
        operation: The operation to invert; its weights are shared, not copied.
    """

    def __init__(self, operation: ReversibleOperation) -> None:
        super().__init__()
        self.operation = operation
        self.num_inputs, self.num_outputs = operation.num_outputs, operation.num_inputs

    def condition(self, embedding: Tensor) -> Tensors:
        return self.operation.condition(embedding)

    def weights(self) -> list[nn.Parameter]:
        return self.operation.weights()

    def forward(self, inputs: Tensors, embedding: Tensor, policy: Policy) -> Tensors:
        # through the operation's own __call__: a wrapper such as FSDP2 then sees this pass too
        return self.operation(inputs, embedding, lambda _, x, condition: policy(self, x, condition))

    def map(self, inputs: Tensors, condition: Tensors, remainders: Tensors | None = None) -> Tensors:
        outputs = self.operation.inverse(inputs, condition)
        if self.exact and remainders is not None:
            remainders += remainder(inputs, self.operation.map(outputs, condition))
        return outputs

    def inverse(self, outputs: Tensors, condition: Tensors, remainders: Tensors | None = None) -> Tensors:
        inputs = self.operation.map(outputs, condition)
        return add_remainder(inputs, remainders)
