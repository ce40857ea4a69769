"""How exactly networks are computed.

`float32` is what it says, on every device: GPUs multiply in TensorFloat-32 (10 bits of mantissa) only where
`tf32` asks for it. Left to itself, torch does so in convolutions but not in matrix products. `bfloat16` is
autocast: convolutions and matrix products in bfloat16; sums, statistics and losses in float32, weights too.
"""

import torch

from trainables.spec import Precision


def computing(precision: Precision, device: torch.device) -> torch.autocast:
    """Let GPUs multiply as a trial asks, and return the context in which its network is run.

    How they multiply is set by the call and holds beyond the context, until the next call: a backward pass
    comes after it. On a processor `tf32` is `float32`.
    """
    # By torch's older names: what sets the newer ones one by one makes libraries that read these fail.
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16")
