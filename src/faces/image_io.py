"""Reads photo files of any supported format, depth and colour mode into upright RGB pixels, and lists photo files."""

import functools
import glob
import io
import os
import stat
import struct
import warnings
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import pillow_heif
from PIL import ExifTags, Image, ImageCms

from src.config import IMAGE_SUFFIXES
from src.files import walk_images

MIN_SIDE = 16  # pixels: a smaller image shows no usable face
MAX_PIXELS = 200_000_000  # larger photos are refused; decoded, this many pixels take 600 MB
REDUCE_ABOVE_PIXELS = 50_000_000  # `read_scaled_photo` reduces photos with more pixels
SCALES = (1, 2, 4, 8)  # factors by which a photo may be reduced; JPEG decoders support the same ones
# EPS is not supported, because Pillow would start Ghostscript.
PILLOW_FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "HEIF", "AVIF", "PPM")
Image.MAX_IMAGE_PIXELS = None  # MAX_PIXELS is checked instead, before anything is decoded
pillow_heif.register_heif_opener()

_MESSAGES = {
    FileNotFoundError: "no such file",
    PermissionError: "no permission to read the file",
    MemoryError: "too large for this machine's memory",
    Image.UnidentifiedImageError: "not an image in a supported format",
}

# What Pillow raises on damaged EXIF data.
_EXIF_ERRORS = (SyntaxError, OSError, ValueError, LookupError, TypeError, ArithmeticError, struct.error)

PhotoFile: TypeAlias = str | Path | bytes | Image.Image  # a file's path or content, or a PIL image


class UnreadablePhoto(ValueError):
    """The photo cannot be read; the message is the reason."""


class ScaledPhoto(NamedTuple):
    """A photo, perhaps reduced: each pixel is the mean of `scale` x `scale` pixels, fewer at the right and lower edge.

    Multiply the coordinates of a box by `scale` to get coordinates in the photo.
    """

    pixels: npt.NDArray[np.uint8]  # (height, width, 3), RGB, 0-255, upright
    scale: int  # one of `SCALES`


def read_photo(photo: PhotoFile, max_pixels: int = MAX_PIXELS) -> npt.NDArray[np.uint8]:
    """Reads a photo at full size.

    Grey, palette, CMYK and 16-bit images become RGB, and colour profiles are converted to sRGB. Transparent pixels are
    blended with white. Only the first frame of an animation is read.

    Args:
        photo: Path or content of a file, or a PIL image.
        max_pixels: Largest number of pixels that is accepted, checked before anything is decoded.

    Returns:
        uint8 (height, width, 3), RGB, 0-255, upright by the photo's EXIF orientation.

    Raises:
        UnreadablePhoto: The file is missing, damaged, too large, or not an image in a supported format.
    """
    return read_scaled_photo(photo, max_pixels, max_pixels).pixels


def read_scaled_photo(photo: PhotoFile, max_pixels: int = MAX_PIXELS, reduce_above: int = REDUCE_ABOVE_PIXELS) -> ScaledPhoto:
    """Reads a photo like `read_photo`, but reduces one of more than `reduce_above` pixels by 2, 4 or 8.

    The scale is the smallest that leaves at most `reduce_above` pixels, or 8. JPEG files are decoded at the reduced size,
    which takes a fraction of the memory; other formats are decoded at full size first.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns about unusual EXIF or palette data and continues
            if isinstance(photo, Image.Image):
                return _decode(photo, max_pixels, reduce_above, can_draft=False)  # a draft would change the caller's image
            with Image.open(_check_source(photo), formats=PILLOW_FORMATS) as image:
                return _decode(image, max_pixels, reduce_above, can_draft=True)
    except UnreadablePhoto:
        raise
    except Exception as error:  # Pillow's decoders raise many types on damaged data
        damaged = f"damaged image ({str(error) or type(error).__name__})"
        raise UnreadablePhoto(_MESSAGES.get(type(error), damaged)) from None


def _check_source(photo: str | Path | bytes) -> str | Path | io.BytesIO:
    """Returns what Pillow can open; raises UnreadablePhoto or OSError for anything else."""
    if not isinstance(photo, bytes):
        if glob.has_magic(str(photo)) and not os.path.lexists(photo):
            raise UnreadablePhoto("no file matches this pattern")
        mode = os.stat(photo).st_mode
        if stat.S_ISDIR(mode):
            raise UnreadablePhoto("a folder, not a photo")
        if not stat.S_ISREG(mode):
            raise UnreadablePhoto("not a regular file")  # a pipe or device might never end
    if not (len(photo) if isinstance(photo, bytes) else os.path.getsize(photo)):
        raise UnreadablePhoto("the file is empty")
    return io.BytesIO(photo) if isinstance(photo, bytes) else photo


def _decode(image: Image.Image, max_pixels: int, reduce_above: int, can_draft: bool) -> ScaledPhoto:
    width, height = image.size
    if width * height > max_pixels:
        raise UnreadablePhoto(f"at most {max_pixels:,} pixels are supported, got {width:,} x {height:,}")
    scale = next((factor for factor in SCALES if width * height <= reduce_above * factor**2), SCALES[-1])
    if scale > 1 and can_draft:  # makes the decoder of JPEG reduce the photo; has no effect on other formats
        image.draft(None, (max(1, width // scale), max(1, height // scale)))
    decoder_scale = round(max(width, height) / max(image.size))  # by which the decoder will reduce the photo
    image.load()  # turns TIFF files upright
    orientation = _orientation(image)
    rgb = _to_srgb(image)
    if scale > decoder_scale:
        rgb = rgb.reduce(scale // decoder_scale)
    return ScaledPhoto(_turn_upright(np.asarray(rgb), orientation), max(scale, decoder_scale))


def _turn_upright(pixels: npt.NDArray[np.uint8], orientation: int) -> npt.NDArray[np.uint8]:
    """Returns an upright copy of pixels with an EXIF orientation, 1 to 8; from 5 on, rows and columns are exchanged."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.array(pixels, order="C")


def _orientation(image: Image.Image) -> int:
    """Returns the EXIF orientation, 1 to 8; 1 (upright) where it is missing or damaged."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except _EXIF_ERRORS:
        return 1
    return orientation if orientation in range(1, 9) else 1


def _to_srgb(image: Image.Image) -> Image.Image:
    """Converts to 8-bit RGB; ignores a profile that is damaged or meant for another kind of pixels."""
    profile = image.info.get("icc_profile")
    if image.mode.startswith("I") or image.mode == "F":
        # 16-bit integers range to 65535, floats to 1 or to their maximum if that is more; `fmax` ignores NaN.
        white = np.fmax.reduce(np.asarray(image), axis=None, initial=1.0) if image.mode == "F" else 65535
        levels = np.clip(np.nan_to_num(np.asarray(image) / white), 0, 1) * 255
        image = Image.fromarray(np.uint8(levels)).convert("RGB")
    elif image.mode not in ("RGB", "L", "CMYK", "LAB"):
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        image = image.convert("RGB")
    if profile:
        try:
            return ImageCms.applyTransform(image, _srgb_transform(profile, image.mode))
        except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
            pass
    return image if image.mode == "RGB" else image.convert("RGB")


@functools.lru_cache(maxsize=16)  # the photos of one camera share a profile
def _srgb_transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform:
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    return ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")


def list_photos(paths: list[str | Path]) -> list[Path]:
    """Lists photo files.

    Args:
        paths: Files, folders, and patterns with `*`, `?`, `[…]` or `**` (folders at any depth), which the Windows command
            line does not expand.

    Returns:
        The files in the order given. A folder is replaced by the images in it and in its subfolders, sorted. A pattern is
        replaced by the images that it matches and those in the folders that it matches, sorted; without any, it is returned
        as it is. Images have one of `IMAGE_SUFFIXES` and are not hidden. A file that is named is returned with any suffix,
        even if it is missing, so that predictions have a row for it.

    Raises:
        ValueError: A name is empty.
    """
    found: list[Path] = []
    for given in paths:
        if not str(given):
            raise ValueError("expected the name of a photo or a folder, got an empty name; write . for the current folder")
        path = Path(os.path.expanduser(given))
        if os.path.isdir(path):
            found += _images_in(path)
        elif glob.has_magic(str(path)) and not os.path.lexists(path):
            matches = [Path(name) for name in glob.glob(str(path), recursive=True)]
            images = {image for match in matches for image in (_images_in(match) if match.is_dir() else [match])}
            found += sorted(image for image in images if image.suffix.lower() in IMAGE_SUFFIXES) or [path]
        else:
            found.append(path)
    return found


def _images_in(folder: Path) -> list[Path]:
    images = (folder / name for name in walk_images(folder, follow_links=False))
    return sorted(path for path in images if os.path.isfile(path))
