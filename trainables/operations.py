"""What a network needs per image, as data; `trainables.counting` counts it."""

from dataclasses import dataclass

BYTES_PER_NUMBER = 4


@dataclass(frozen=True)
class Operations:
    """What one network needs.

    Attributes:
        forward_flops: floating-point operations of one image's forward pass; a multiply-add is two.
        training_flops: those of its forward and backward pass.
        n_params: numbers in the weights.
        n_trainable_params: those that learn.
        activation_bytes: what the backward pass keeps of one image, in 32-bit precision.
    """

    forward_flops: int
    training_flops: int
    n_params: int
    n_trainable_params: int
    activation_bytes: int

    def memory_bytes(self, *, micro_batch: int, slots_per_param: int) -> int:
        """Return what training needs on a device: weights, gradients, optimizer and activations.

        Left out: the context of the device, what its libraries work in, and images that are kept on it.

        Args:
            micro_batch: images at once.
            slots_per_param: numbers the optimizer keeps of each weight: momentum 1, Adam 2.
        """
        numbers = self.n_params + self.n_trainable_params * (1 + slots_per_param)
        return numbers * BYTES_PER_NUMBER + micro_batch * self.activation_bytes
