"""From the bytes of an image file to upright 8-bit pixels of one size."""

import io

import numpy as np
from PIL import Image, ImageOps, TiffImagePlugin

# What the names of image files promise (an MPO opens as a JPEG). Of the others some are programs: PostScript.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
GREY_16_BIT = ("I", "I;16", "I;16B", "I;16L")
TWELVE_BITS = 4096
_PHOTOMETRIC = 262  # the TIFF tag that says which end of the range is white


def decode(data: bytes) -> Image.Image:
    """Decode a file to an upright image of mode L or RGB.

    16-bit grey is scaled from its full range (0 … 65535), and refused where it uses no more than 12 bits of
    it. Transparency is laid over black, the orientation of the EXIF header is applied.

    Raises:
        Exception: whatever the decoders raise on a damaged file, and ValueError for one that holds
            several pages, or values without a known range.
    """
    with Image.open(io.BytesIO(data), formats=FORMATS) as opened:
        # An MPO is a photograph followed by its previews; any other sequence is a volume or a film.
        if opened.format != "MPO" and getattr(opened, "n_frames", 1) > 1:
            raise ValueError(f"holds {opened.n_frames} pages where one image is expected")  # type: ignore[attr-defined]
        upright = ImageOps.exif_transpose(opened)
        is_negative = opened.mode in GREY_16_BIT and _says_white_is_zero(opened)
        return ImageOps.invert(_eight_bit(upright)) if is_negative else _eight_bit(upright)


def _says_white_is_zero(opened: Image.Image) -> bool:
    # X-ray film scanners write such TIFFs. Pillow turns them around at 1 to 8 bits, and forgets it at 16.
    return isinstance(opened, TiffImagePlugin.TiffImageFile) and opened.tag_v2.get(_PHOTOMETRIC) == 0


def _eight_bit(image: Image.Image) -> Image.Image:
    if image.mode in GREY_16_BIT:
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError("holds 32-bit values, whose range is not known; convert it to 8 or 16 bits")
        if 0 < values.max() < TWELVE_BITS:
            raise ValueError(
                f"has 16 bits and no value above {values.max()}, as films of 12 bits have, of which next to "
                "nothing would be left; scale it to 0 … 65535"
            )
        return Image.fromarray(np.rint(values * (255 / 65535)).astype(np.uint8))
    if image.mode == "F":
        raise ValueError("holds floating-point values, whose range is not known; convert it to 8 or 16 bits")
    if image.has_transparency_data:
        opaque = image.convert("RGBA")
        ground = Image.new("RGBA", opaque.size, (0, 0, 0, 255))
        return Image.alpha_composite(ground, opaque).convert("RGB")
    return image if image.mode == "L" else image.convert("L" if image.mode == "1" else "RGB")


def as_pixmap(pixels: np.ndarray) -> bytes:
    """Return a file that `decode` turns into these very pixels, at next to no cost.

    Args:
        pixels: (height, width) grey or (height, width, 3) RGB, uint8.
    """
    height, width = pixels.shape[:2]
    kind = "P5" if pixels.ndim == 2 else "P6"  # Netpbm's binary grey and colour
    return f"{kind}\n{width} {height}\n255\n".encode() + pixels.tobytes()


def fit(image: Image.Image, *, size_px: int, channels: int) -> np.ndarray:
    """Return (channels, size_px, size_px) uint8: bilinear with antialiasing, the sides scaled apart.

    Args:
        image: of mode L or RGB.
        channels: 1 (ITU-R 601 luma) or 3 (grey is repeated).
    """
    if channels == 1:
        image = image.convert("L")
    if image.size != (size_px, size_px):
        image = image.resize((size_px, size_px), Image.Resampling.BILINEAR)
    pixels = np.asarray(image)
    planes = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    return np.broadcast_to(planes, (channels, size_px, size_px))
