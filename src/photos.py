"""Reading a photo file into upright RGB pixels, whatever its format, depth and colour mode.

Before it: nothing but the file. After it: `faces`.
"""

import functools
import io
import os
import stat
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pillow_heif
from PIL import Image, ImageCms, ImageOps

from src.config import IMAGE_SUFFIXES

MAX_PIXELS = 200_000_000  # a photo of 16,000 x 12,500; 600 MB once decoded
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "HEIF", "AVIF", "PPM")  # of Pillow's; its EPS runs programs
Image.MAX_IMAGE_PIXELS = None  # our own limit above is checked instead, before anything is decoded
pillow_heif.register_heif_opener()


class UnreadablePhoto(ValueError):
    """A file that is no picture that can be read; its text says why in one sentence."""


def read_photo(path: str | Path, most: int = MAX_PIXELS) -> np.ndarray:
    """A photo's pixels: uint8, (height, width, 3), RGB, 0-255, turned upright by its EXIF orientation.

    Grey, palette, CMYK and 16-bit pictures become RGB, those with a colour profile sRGB; what is transparent is laid on
    white; of an animation, the first frame. Raises UnreadablePhoto where the file is missing, damaged, no picture, or of
    more than `most` pixels, which is checked before anything is decoded.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode) and not os.path.isdir(path):
            raise UnreadablePhoto("not a file that can be read as a photo")  # a pipe or device could be waited for for ever
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd EXIF or palette data: Pillow reads on, and so do we
            with Image.open(path, formats=FORMATS) as image:
                width, height = image.size
                if width * height > most:
                    raise UnreadablePhoto(f"at most {most:,} pixels are read, got {width:,} x {height:,}")
                image.load()
                return np.asarray(_srgb(_upright(image)))
    except UnreadablePhoto:
        raise
    except FileNotFoundError:
        raise UnreadablePhoto("no such file") from None
    except IsADirectoryError:
        raise UnreadablePhoto("a folder, not a photo") from None
    except PermissionError:
        raise UnreadablePhoto("no permission to read the file") from None
    except MemoryError:
        raise UnreadablePhoto("too large for this machine's memory") from None
    except Image.UnidentifiedImageError:
        empty = Path(path).stat().st_size == 0
        raise UnreadablePhoto("the file is empty" if empty else "not a picture in a format that can be read") from None
    except Exception as error:  # Pillow's decoders raise many kinds on damaged data; all mean the same here
        raise UnreadablePhoto(f"damaged picture ({str(error) or type(error).__name__})") from None


def list_photos(places: list[str | Path]) -> list[Path]:
    """The photo files of the given files and folders, in the order given.

    A folder gives the pictures in it and below it (known by `IMAGE_SUFFIXES`), sorted, hidden ones left out; anything
    else is taken as it is, so that a missing file can be told of.
    """
    found = []
    for place in (Path(os.path.expanduser(place)) for place in places):  # which leaves a file called ~name alone
        if _is(Path.is_dir, place):
            found += sorted(_pictures(place))
        else:
            found.append(place)
    return found


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


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # EXIF data that is damaged in any way: the pixels are there, as they are stored
        return image


def _srgb(image: Image.Image) -> Image.Image:
    """RGB for the screen; a profile that is damaged or of another kind than the pixels is passed over."""
    profile = image.info.get("icc_profile")
    if image.mode not in ("RGB", "L", "CMYK", "LAB"):
        image = _rgb(image)
    if profile:
        try:
            return ImageCms.applyTransform(image, _to_srgb(profile, image.mode))
        except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
            pass
    return image.convert("RGB")


@functools.lru_cache(maxsize=16)  # the photos of one camera share a profile
def _to_srgb(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform:
    given = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    return ImageCms.buildTransform(given, ImageCms.createProfile("sRGB"), mode, "RGB")


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_eight_bits(np.asarray(image))).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _eight_bits(pixels: np.ndarray) -> np.ndarray:
    """Deep grey pixels on 0-255: integers are taken as 16-bit, floats as 0-1 unless they go beyond it."""
    top = 65535 if pixels.dtype.kind in "iu" else max(1.0, float(np.nanmax(pixels)))
    return np.uint8(np.clip(np.nan_to_num(pixels / top), 0, 1) * 255)
