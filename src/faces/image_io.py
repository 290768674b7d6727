"""Reads a photo file of any supported format, depth and colour mode into upright RGB pixels, and lists photo files.

Before it: nothing but the file. After it: `faces`.
"""

import functools
import glob
import io
import os
import stat
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import pillow_heif
from PIL import ExifTags, Image, ImageCms

from src.config import IMAGE_SUFFIXES

MAX_PIXELS = 200_000_000  # a photo of 16,000 x 12,500; 600 MB once decoded
LARGE = 50_000_000  # pixels: `read_scaled_photo` reduces photos of more
FACTORS = (1, 2, 4, 8)  # by which it reduces them; what JPEG's decoders offer
STRIP = 4_000_000  # pixels that are converted at a time: only the decoded picture and the result are in memory as a whole
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "HEIF", "AVIF", "PPM")  # of Pillow's; its EPS runs programs
Image.MAX_IMAGE_PIXELS = None  # our own limit above is checked instead, before anything is decoded
pillow_heif.register_heif_opener()
NO_MATCH = "no file matches this pattern"


PhotoFile: TypeAlias = str | Path | bytes | Image.Image


class UnreadablePhoto(ValueError):
    """A file that is not a picture in a supported format. The text says why in one sentence."""


class ScaledPhoto(NamedTuple):
    """A photo, perhaps reduced.

    Pixel (x, y) of `pixels` is the mean of `scale` x `scale` pixels of the photo: box edges times `scale` are edges in the
    photo, and (x + 0.5) * scale - 0.5 is the place of a pixel's centre. At the right and lower border a pixel may reach
    over the photo's edge.
    """

    pixels: npt.NDArray[np.uint8]  # (height, width, 3), RGB, 0-255, upright
    scale: int  # of `FACTORS`; 1: as it is
    size: tuple[int, int]  # width and height of the upright photo in its own pixels


def read_photo(photo: PhotoFile, most: int = MAX_PIXELS) -> npt.NDArray[np.uint8]:
    """Reads a photo at its full size.

    Grey, palette, CMYK and 16-bit pictures become RGB. Pictures with a colour profile become sRGB. Transparent pixels are
    blended with white. Of an animation the first frame is read.

    Args:
        photo: the file's path, its content, or a PIL image.
        most: the largest number of pixels that is read; it is checked before anything is decoded.

    Returns:
        uint8 (height, width, 3), RGB, 0-255, turned upright by the photo's EXIF orientation.

    Raises:
        UnreadablePhoto: the file is missing, damaged, no picture in a supported format, or too large.
    """
    return _read(photo, most, most).pixels


def read_scaled_photo(photo: PhotoFile, most: int = MAX_PIXELS, enough: int = LARGE) -> ScaledPhoto:
    """Reads a photo as `read_photo` does, but one of more than `enough` pixels reduced by 2, 4 or 8.

    It takes the smallest of these factors that leaves at most `enough` pixels. JPEG files are decoded at the reduced size,
    which needs a fraction of the memory (for progressive files less is saved); others are decoded as a whole first.
    """
    return _read(photo, most, enough)


def _read(photo: PhotoFile, most: int, enough: int) -> ScaledPhoto:
    path = photo if isinstance(photo, (str, Path)) else ""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd EXIF or palette data: Pillow reads on, and so do we
            if isinstance(photo, Image.Image):
                return _decoded(photo, most, enough, draft=False)  # which would change the caller's image
            with Image.open(_checked(photo), formats=FORMATS) as image:
                return _decoded(image, most, enough)
    except UnreadablePhoto:
        raise
    except FileNotFoundError:
        raise UnreadablePhoto(NO_MATCH if glob.has_magic(str(path)) else "no such file") from None
    except IsADirectoryError:
        raise UnreadablePhoto("a folder, not a photo") from None
    except PermissionError:
        raise UnreadablePhoto("no permission to read the file") from None
    except MemoryError:
        raise UnreadablePhoto("too large for this machine's memory") from None
    except Image.UnidentifiedImageError:
        empty = not photo if isinstance(photo, bytes) else Path(path).stat().st_size == 0
        raise UnreadablePhoto("the file is empty" if empty else "not a picture in a format that can be read") from None
    except Exception as error:  # Pillow's decoders raise many kinds on damaged data; all mean the same here
        raise UnreadablePhoto(f"damaged picture ({str(error) or type(error).__name__})") from None


def _checked(photo: str | Path | bytes) -> str | Path | io.BytesIO:
    """What Pillow can open; UnreadablePhoto or OSError for what it should not try to open."""
    if isinstance(photo, bytes):
        return io.BytesIO(photo)
    if glob.has_magic(str(photo)) and not os.path.lexists(photo):  # Windows would call the name invalid
        raise UnreadablePhoto(NO_MATCH)
    if not stat.S_ISREG(os.stat(photo).st_mode) and not os.path.isdir(photo):
        raise UnreadablePhoto("not a file that can be read as a photo")  # a pipe or device could be waited for for ever
    return photo


def _decoded(image: Image.Image, most: int, enough: int, draft: bool = True) -> ScaledPhoto:
    width, height = image.size
    if width * height > most:
        raise UnreadablePhoto(f"at most {most:,} pixels are read, got {width:,} x {height:,}")
    factor = next((one for one in FACTORS if width * height <= enough * one**2), FACTORS[-1])
    if factor > 1 and draft:  # only has an effect on JPEG
        image.draft(None, (max(1, width // factor), max(1, height // factor)))
    decoded = round(max(width, height) / max(image.size))  # the factor by which the decoder reduces
    image.load()
    full = (width, height) if decoded > 1 else image.size  # TIFF files are turned upright by `load`
    return _upright(image, full, decoded, max(1, factor // decoded))


def list_photos(places: list[str | Path]) -> list[Path]:
    """Lists photo files.

    Args:
        places: names of files and folders, and patterns with `*`, `?`, `[…]` or `**` (folders at any depth), which the
            Windows command line does not expand. A file whose own name looks like a pattern is that file.

    Returns:
        The files in the order given. A folder gives the pictures in it and below it (known by `IMAGE_SUFFIXES`), sorted,
        without hidden ones; so does a pattern, for the files and folders that it matches. Any other name is kept as it is,
        also that of a missing file and a pattern without a match, so that the table of predictions has a row for it.

    Raises:
        ValueError: a name is empty.
    """
    found = []
    for place in places:
        if not str(place):
            raise ValueError("expected the name of a photo or a folder, got an empty name; the current folder is called .")
        path = Path(os.path.expanduser(place))  # leaves a file called ~name alone
        if _is(Path.is_dir, path):
            found += sorted(_pictures(path))
        elif glob.has_magic(str(path)) and not os.path.lexists(path):
            found += _matches(str(path)) or [path]
        else:
            found.append(path)
    return found


def _matches(pattern: str) -> list[Path]:
    """The pictures that a pattern matches, and those in folders that it matches, each once, sorted."""
    try:
        matched = [Path(name) for name in glob.glob(pattern, recursive=True)]
    except (OSError, ValueError):  # a name that no file can have
        return []
    found = set()
    for path in matched:
        if _is(Path.is_dir, path):
            found.update(_pictures(path))
        elif path.suffix.lower() in IMAGE_SUFFIXES and _is(Path.is_file, path):
            found.add(path)
    return sorted(found)


def _pictures(folder: Path) -> Iterator[Path]:
    """Also of a folder that changes meanwhile: what is gone before it is looked into is left out."""
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            path = Path(place, name)
            if not name.startswith(".") and path.suffix.lower() in IMAGE_SUFFIXES and _is(Path.is_file, path):
                yield path


def _is(kind: Callable[[Path], bool], path: Path) -> bool:
    try:
        return kind(path)
    except (OSError, ValueError):  # a name that no file can have, or a folder that may not be looked into
        return False


def _upright(image: Image.Image, size: tuple[int, int], decoded: int, factor: int) -> ScaledPhoto:
    """The pixels of a decoded picture, which was reduced by `decoded` and is to be reduced by `factor` more.

    size: width and height of the whole picture as it is stored. Works in strips and writes each to its place in the upright
    result, so that no other copy of the whole picture is made.
    """
    orientation, top = _orientation(image), _brightest(image)
    stored_shape = tuple(-(-side // factor) for side in (image.height, image.width))
    pixels = np.empty((*(stored_shape[::-1] if orientation >= 5 else stored_shape), 3), np.uint8)
    stored = _as_stored(pixels, orientation)
    rows = max(1, STRIP // image.width // factor) * factor
    for start in range(0, image.height, rows):
        strip = image
        if rows < image.height:
            strip = image.crop((0, start, image.width, min(start + rows, image.height)))
        strip = _srgb(strip, top)
        if factor > 1:
            strip = strip.reduce(factor)
        stored[start // factor : start // factor + strip.height] = np.asarray(strip)
    return ScaledPhoto(pixels, decoded * factor, size[::-1] if orientation >= 5 else size)


def _orientation(image: Image.Image) -> int:
    """1 to 8 by EXIF's definition; 1, upright, where there is none."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # EXIF data that is damaged in any way: the pixels are there, as they are stored
        return 1
    return orientation if orientation in range(1, 9) else 1


def _as_stored(upright: np.ndarray, orientation: int) -> np.ndarray:
    """A view of upright pixels, (height, width, 3), in the order of rows and columns in which the file stores them."""
    if orientation in (3, 4, 7, 8):
        upright = upright[::-1]
    if orientation in (2, 3, 6, 7):
        upright = upright[:, ::-1]
    return upright.swapaxes(0, 1) if orientation >= 5 else upright


def _srgb(image: Image.Image, top: float) -> Image.Image:
    """RGB for the screen; a profile that is damaged or of another kind than the pixels is ignored. top: see `_brightest`."""
    profile = image.info.get("icc_profile")
    if image.mode not in ("RGB", "L", "CMYK", "LAB"):
        image = _rgb(image, top)
    if profile:
        try:
            return ImageCms.applyTransform(image, _to_srgb(profile, image.mode))
        except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
            pass
    return image if image.mode == "RGB" else image.convert("RGB")


@functools.lru_cache(maxsize=16)  # the photos of one camera share a profile
def _to_srgb(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform:
    given = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    return ImageCms.buildTransform(given, ImageCms.createProfile("sRGB"), mode, "RGB")


def _rgb(image: Image.Image, top: float) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        pixels = np.asarray(image)
        return Image.fromarray(np.uint8(np.clip(np.nan_to_num(pixels / top), 0, 1) * 255)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _brightest(image: Image.Image) -> float:
    """The value that becomes white in grey pictures of more than 8 bits.

    Integers are 16-bit. Floats range from 0 to 1, or to their largest value where that is more.
    """
    if image.mode != "F":
        return 65535.0
    return float(np.fmax.reduce(np.asarray(image), axis=None, initial=1.0))  # ignores NaN
