"""Reads photo files of any supported format, depth and colour mode into upright RGB pixels, and lists photo files."""

import functools
import glob
import io
import os
import stat
import struct
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import pillow_heif
from PIL import ExifTags, Image, ImageCms

from src.config import IMAGE_SUFFIXES

MIN_SIDE = 16  # pixels: a smaller image shows no usable face
MAX_PIXELS = 200_000_000  # larger photos are refused; decoded, this many pixels take 600 MB
LARGE_PHOTO = 50_000_000  # pixels above which `read_scaled_photo` reduces a photo
SCALES = (1, 2, 4, 8)  # factors by which a photo may be reduced; JPEG decoders support the same ones
STRIP_PIXELS = 4_000_000  # pixels that are converted at a time, so that no second copy of the whole photo is in memory
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "HEIF", "AVIF", "PPM")  # without EPS: Pillow would start Ghostscript
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
    size: tuple[int, int]  # width and height of the upright photo before the reduction


def read_photo(photo: PhotoFile, max_pixels: int = MAX_PIXELS) -> npt.NDArray[np.uint8]:
    """Reads a photo at full size.

    Grey, palette, CMYK and 16-bit images become RGB, and colour profiles are converted to sRGB. Transparent pixels are
    blended with white. An animation gives its first frame.

    Args:
        photo: Path or content of a file, or a PIL image.
        max_pixels: Largest number of pixels that is accepted, checked before anything is decoded.

    Returns:
        uint8 (height, width, 3), RGB, 0-255, upright by the photo's EXIF orientation.

    Raises:
        UnreadablePhoto: The file is missing, damaged, too large, or not an image in a supported format.
    """
    return read_scaled_photo(photo, max_pixels, max_pixels).pixels


def read_scaled_photo(photo: PhotoFile, max_pixels: int = MAX_PIXELS, large: int = LARGE_PHOTO) -> ScaledPhoto:
    """Reads a photo like `read_photo`, but reduces one of more than `large` pixels by 2, 4 or 8.

    The scale is the smallest that leaves at most `large` pixels, or 8. JPEG files are decoded at the reduced size, which
    takes a fraction of the memory; other formats are decoded at full size first.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow reads on after unusual EXIF or palette data
            if isinstance(photo, Image.Image):
                return _decode(photo, max_pixels, large, can_draft=False)  # a draft would change the caller's image
            with Image.open(_check_source(photo), formats=FORMATS) as image:
                return _decode(image, max_pixels, large, can_draft=True)
    except UnreadablePhoto:
        raise
    except Exception as error:  # Pillow's decoders raise many types on damaged data
        damaged = f"damaged picture ({str(error) or type(error).__name__})"
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


def _decode(image: Image.Image, max_pixels: int, large: int, can_draft: bool) -> ScaledPhoto:
    width, height = image.size
    if width * height > max_pixels:
        raise UnreadablePhoto(f"at most {max_pixels:,} pixels are supported, got {width:,} x {height:,}")
    scale = next((factor for factor in SCALES if width * height <= large * factor**2), SCALES[-1])
    if scale > 1 and can_draft:  # only has an effect on JPEG
        image.draft(None, (max(1, width // scale), max(1, height // scale)))
    decoder_scale = round(max(width, height) / max(image.size))
    image.load()
    size = (width, height) if decoder_scale > 1 else image.size  # `load` turns TIFF files upright
    orientation = _orientation(image)
    pixels = _to_rgb(image, max(1, scale // decoder_scale), orientation)
    return ScaledPhoto(pixels, max(scale, decoder_scale), size[::-1] if orientation >= 5 else size)


def _to_rgb(image: Image.Image, scale: int, orientation: int) -> npt.NDArray[np.uint8]:
    """Converts a decoded image to upright RGB pixels, reduced by `scale`, in strips.

    An EXIF orientation of 5 or more includes a rotation by 90 degrees, which exchanges width and height.
    """
    white = 65535.0  # 16-bit integers; floats range from 0 to 1, or to their maximum if that is more
    if image.mode == "F":
        white = float(np.fmax.reduce(np.asarray(image), axis=None, initial=1.0))  # ignores NaN
    shape = tuple(-(-side // scale) for side in (image.height, image.width))
    upright = np.empty((*(shape[::-1] if orientation >= 5 else shape), 3), np.uint8)
    stored = upright[::-1] if orientation in (3, 4, 7, 8) else upright  # a view in the file's order
    stored = stored[:, ::-1] if orientation in (2, 3, 6, 7) else stored
    stored = stored.swapaxes(0, 1) if orientation >= 5 else stored
    rows = max(1, STRIP_PIXELS // image.width // scale) * scale
    for start in range(0, image.height, rows):
        strip = image
        if rows < image.height:
            strip = image.crop((0, start, image.width, min(start + rows, image.height)))
        strip = _to_srgb(strip, white)
        if scale > 1:
            strip = strip.reduce(scale)
        stored[start // scale : start // scale + strip.height] = np.asarray(strip)
    return upright


def _orientation(image: Image.Image) -> int:
    """Returns the EXIF orientation, 1 to 8; 1 (upright) where it is missing or damaged."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except _EXIF_ERRORS:
        return 1
    return orientation if orientation in range(1, 9) else 1


def _to_srgb(image: Image.Image, white: float) -> Image.Image:
    """Converts to 8-bit RGB; ignores a profile that is damaged or meant for another kind of pixels."""
    profile = image.info.get("icc_profile")
    if image.mode.startswith("I") or image.mode == "F":
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


def list_photos(places: list[str | Path]) -> list[Path]:
    """Lists photo files.

    Args:
        places: Files, folders, and patterns with `*`, `?`, `[…]` or `**` (folders at any depth), which the Windows command
            line does not expand.

    Returns:
        The files in the order given. A folder, and each folder that matches a pattern, is replaced by the images in it and
        in its subfolders: names with one of `IMAGE_SUFFIXES`, sorted, without hidden ones. Other names are returned as they
        are. These include missing files and patterns without a match, so that predictions have a row for them.

    Raises:
        ValueError: A name is empty.
    """
    found: list[Path] = []
    for place in places:
        if not str(place):
            raise ValueError("expected the name of a photo or a folder, got an empty name; the current folder is called .")
        path = Path(os.path.expanduser(place))
        if os.path.isdir(path):
            found += sorted(_images_in(path))
        elif glob.has_magic(str(path)) and not os.path.lexists(path):
            matches = [Path(name) for name in glob.glob(str(path), recursive=True)]
            images = {image for match in matches for image in (_images_in(match) if match.is_dir() else [match])}
            found += sorted(image for image in images if image.suffix.lower() in IMAGE_SUFFIXES) or [path]
        else:
            found.append(path)
    return found


def _images_in(folder: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            path = Path(parent, name)
            if not name.startswith(".") and path.suffix.lower() in IMAGE_SUFFIXES and os.path.isfile(path):
                yield path
