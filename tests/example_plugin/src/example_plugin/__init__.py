"""A network of two stages, and images whose stripes tell the class."""

from collections import OrderedDict
from pathlib import Path

import numpy as np
from torch import nn

from trainables.architectures.architecture import Architecture, Stage
from trainables.architectures.spec import ArchitectureSpec
from trainables.datasets.packed import ImageArray
from trainables.datasets.readers import Reader
from trainables.datasets.table import Table

PLUGIN_NET = Architecture(
    "example_plugin:build_plugin_net",
    (
        Stage("conv1", ("conv1",), "relu1"),
        Stage("conv2", ("conv2",), "relu2"),
        Stage("head", ("head",), "head"),
    ),
    chain=("conv1", "relu1", "conv2", "relu2"),
    smallest_px=8,
)
PLUGIN_STRIPES = Reader(
    "example_plugin:read_stripes", needs_path=False, known_classes=lambda _spec: ("flat", "tall")
)


def build_plugin_net(_spec: ArchitectureSpec, *, n_outputs: int, channels: int) -> nn.Module:
    """Build two convolutions and a head."""
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(channels, 4, 3, padding=1),
            relu1=nn.ReLU(),
            conv2=nn.Conv2d(4, 8, 3, padding=1),
            relu2=nn.ReLU(),
            pool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            head=nn.Linear(8, n_outputs),
        )
    )


def read_stripes(_location: Path | None = None) -> Table:
    """Return 60 images with flat or tall stripes."""
    labels = np.arange(60) % 2
    stripes = np.tile(np.array([0, 200], np.uint8), 4)
    images = np.stack(
        [np.tile(stripes, (8, 1)) if label else np.tile(stripes[:, None], (1, 8)) for label in labels]
    )
    ids = np.array([f"{number:02d}" for number in range(60)])
    return Table(
        name="stripes",
        images=ImageArray(images),
        rows=np.arange(60),
        labels=labels.astype(np.int64),
        classes=("flat", "tall"),
        sample_ids=ids,
        groups=ids,
        splits=np.full(60, "train"),
    )
