"""The two-dimensional data sets of MedMNIST v2 (Yang et al. 2023), by the flag that names their files.

Importing the medmnist package would create a folder in the user's home; this table is all we need of it.
"""

import re
from pathlib import PurePosixPath

_ORGANS = (
    "bladder",
    "femur-left",
    "femur-right",
    "heart",
    "kidney-left",
    "kidney-right",
    "liver",
    "lung-left",
    "lung-right",
    "pancreas",
    "spleen",
)

# Classes in the order of their label numbers.
FLAGS: dict[str, tuple[str, ...]] = {
    "bloodmnist": (
        "basophil",
        "eosinophil",
        "erythroblast",
        "immature-granulocyte",
        "lymphocyte",
        "monocyte",
        "neutrophil",
        "platelet",
    ),
    "breastmnist": ("malignant", "normal-or-benign"),
    "chestmnist": (
        "atelectasis",
        "cardiomegaly",
        "effusion",
        "infiltration",
        "mass",
        "nodule",
        "pneumonia",
        "pneumothorax",
        "consolidation",
        "edema",
        "emphysema",
        "fibrosis",
        "pleural",
        "hernia",
    ),
    "dermamnist": ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc"),
    "octmnist": ("cnv", "dme", "drusen", "normal"),
    "organamnist": _ORGANS,
    "organcmnist": _ORGANS,
    "organsmnist": _ORGANS,
    "pathmnist": (
        "adipose",
        "background",
        "debris",
        "lymphocytes",
        "mucus",
        "smooth-muscle",
        "normal-mucosa",
        "cancer-stroma",
        "adenocarcinoma",
    ),
    "pneumoniamnist": ("normal", "pneumonia"),
    "retinamnist": ("0", "1", "2", "3", "4"),
    "tissuemnist": (
        "collecting-duct",
        "distal-tubule",
        "glomerular-endothelium",
        "interstitial-endothelium",
        "leukocytes",
        "podocytes",
        "proximal-tubule",
        "thick-ascending-limb",
    ),
}


def flag_of(path: str | None) -> str | None:
    """Return the flag of an official file (`x/pneumoniamnist_224.npz`), None for any other file."""
    match = re.fullmatch(r"([a-z]+)(_64|_128|_224)?\.npz", PurePosixPath(path or "").name)
    return match[1] if match and match[1] in FLAGS else None


def classes_of(path: str | None) -> tuple[str, ...] | None:
    """Return the class names of an official file, None for any other file."""
    flag = flag_of(path)
    return None if flag is None else FLAGS[flag]
