"""How exactly networks are computed.

`float32` is what it says, on every device: GPUs multiply in TensorFloat-32 (10 bits of mantissa) only where
`tf32` asks for it. Left to itself, torch does so in convolutions but not in matrix products. `bfloat16` is
autocast: convolutions and matrix products in bfloat16; sums, statistics and losses in float32, weights too.
"""

import torch

from trainables.spec import Precision


def computing(precision: Precision, device: torch.device) -> torch.autocast:
    """Let GPUs multiply as a trial asks, and return the context in which its network is run.

    How they multiply holds beyond the context, until this is called again: a backward pass comes after it. On
    a processor `tf32` is `float32`.
    """
    of_products = "tf32" if precision == "tf32" else "ieee"
    torch.backends.cuda.matmul.fp32_precision = of_products
    torch.backends.cudnn.conv.fp32_precision = of_products  # type: ignore[attr-defined]
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16")
