"""Which files of a folder or an archive are taken for images."""

IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")


def is_seen(name: str) -> bool:
    """Say whether a file or folder name is neither hidden nor one that macOS adds."""
    return not name.startswith(".") and name != "__MACOSX"


def is_image(name: str) -> bool:
    """Say whether a file name has the suffix of an image."""
    return name.lower().endswith(IMAGE_SUFFIXES)
