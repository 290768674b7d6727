"""Reading photo files: every mode and orientation to the same upright RGB, every bad file to one clear refusal."""

import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage.data
from PIL import Image, ImageCms, ImageFilter

from src.config import ROOT
from src.faces import image_io
from src.faces.image_io import UnreadablePhoto, list_photos, read_photo, read_scaled_photo

RNG_SEED = 7
PORTRAIT = cv2.resize(skimage.data.astronaut(), (96, 80), interpolation=cv2.INTER_AREA)  # wider than high, unlike its mirrors


def saved(file, pixels=PORTRAIT, mode=None, **options):
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(file, **options)
    return file


def assert_close(pixels, expected, levels):
    """The same picture, but for what a lossy format takes: `levels` is the mean difference allowed."""
    assert pixels.shape == expected.shape and pixels.dtype == np.uint8
    assert np.abs(pixels.astype(int) - expected).mean() <= levels


def refusal(path):
    with pytest.raises(UnreadablePhoto) as caught:
        read_photo(path)
    message = str(caught.value)
    assert message and "\n" not in message
    return message


@pytest.mark.parametrize("kept", [0.9, 0.5, 0.1])
def test_truncated_jpeg(tmp_path, kept):
    file = saved(tmp_path / "cut.jpg", quality=95)
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * kept)])
    assert "damaged image" in refusal(file)


def test_what_is_no_photo_is_refused_with_the_reason(tmp_path):
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("dear diary\n" * 50)
    (tmp_path / "link.jpg").symlink_to(tmp_path / "gone.jpg")
    reasons = {
        "empty.jpg": "the file is empty",
        "text.jpg": "not an image in a supported format",
        "": "a folder, not a photo",
    }
    reasons |= dict.fromkeys(("gone.jpg", "link.jpg"), "no such file")
    for name, reason in reasons.items():
        assert refusal(tmp_path / name) == reason
    refusal("a\0b.jpg")


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="needs POSIX permissions")
def test_no_permission(tmp_path):
    file = saved(tmp_path / "locked.png")
    file.chmod(0)
    root = os.geteuid() == 0  # who may read everything: be nobody for a moment
    if root:
        os.seteuid(65534)
    try:
        message = refusal(file)
    finally:
        if root:
            os.seteuid(0)
    assert "permission" in message


def png_that_claims(width, height):
    """A PNG whose header promises the size but which has hardly any pixels."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 64)) + chunk(b"IEND", b"")


def test_too_many_pixels_are_refused_before_anything_is_decoded(tmp_path):
    bomb = tmp_path / "bomb.png"
    bomb.write_bytes(png_that_claims(60_000, 50_000))
    assert refusal(bomb) == f"at most {image_io.MAX_PIXELS:,} pixels are supported, got 60,000 x 50,000"
    bomb.write_bytes(png_that_claims(96, 80))  # within the limit the same file is decoded, and found to be damaged
    assert "damaged image" in refusal(bomb)


def test_random_bytes(tmp_path):
    rng = np.random.default_rng(RNG_SEED)
    for i, magic in zip(range(100), 25 * [b"", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"GIF89a"]):
        file = tmp_path / f"{i}.jpg"
        file.write_bytes(magic + rng.bytes(int(rng.integers(1, 4000))))
        pixels_or_refusal(file)


def pixels_or_refusal(file) -> bool:
    """Whether the file gave pixels; anything but pixels or a refusal fails the test."""
    try:
        pixels = read_photo(file)
    except UnreadablePhoto as error:
        assert str(error)
        return False
    assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3 and pixels.size
    return True


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "webp"])
def test_lossless_formats_give_the_pixels(tmp_path, suffix):
    options = {"lossless": True} if suffix == "webp" else {}
    pixels = read_photo(saved(tmp_path / f"a.{suffix}", **options))
    assert pixels.dtype == np.uint8 and (pixels == PORTRAIT).all()


@pytest.mark.parametrize("suffix", ["jpg", "webp", "heic", "heif", "avif"])
def test_lossy_formats_give_nearly_the_pixels(tmp_path, suffix):
    assert_close(read_photo(saved(tmp_path / f"a.{suffix}", quality=95)), PORTRAIT, 5)


def test_the_content_counts_and_not_the_suffix(tmp_path):
    assert (read_photo(saved(tmp_path / "a.jpg", format="PNG")) == PORTRAIT).all()


def test_alpha_is_laid_on_white(tmp_path):
    alpha = np.full(PORTRAIT.shape[:2], 255, np.uint8)
    alpha[:, 30:60], alpha[:, 60:] = 128, 0
    pixels = read_photo(saved(tmp_path / "a.png", np.dstack([PORTRAIT, alpha])))
    assert (pixels[:, :30] == PORTRAIT[:, :30]).all()
    assert_close(pixels[:, 30:60], PORTRAIT[:, 30:60] * (128 / 255) + 255 * (127 / 255), 1)
    assert (pixels[:, 60:] == 255).all()


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif"])
def test_grey(tmp_path, suffix):
    grey = cv2.cvtColor(PORTRAIT, cv2.COLOR_RGB2GRAY)
    assert_close(read_photo(saved(tmp_path / f"a.{suffix}", grey)), np.dstack([grey] * 3), 5)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bit_grey_keeps_its_brightness(tmp_path, suffix):
    deep = np.linspace(0, 65535, 80 * 96).reshape(80, 96).astype(np.uint16)
    pixels = read_photo(saved(tmp_path / f"a.{suffix}", deep))
    assert_close(pixels, np.dstack([deep / 257] * 3), 1)
    assert pixels.min() == 0 and pixels.max() == 255


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bit_colour(tmp_path, suffix):
    assert cv2.imwrite(str(tmp_path / f"a.{suffix}"), PORTRAIT[..., ::-1].astype(np.uint16) * 257)
    assert_close(read_photo(tmp_path / f"a.{suffix}"), PORTRAIT, 1)


@pytest.mark.parametrize("top", [1.0, 300.0])
def test_float_tiff(tmp_path, top):
    ramp = np.linspace(0, top, 80 * 96, dtype=np.float32).reshape(80, 96)
    ramp[0, 0] = np.nan
    assert_close(read_photo(saved(tmp_path / "a.tif", ramp)), np.dstack([np.nan_to_num(ramp) / top * 255] * 3), 1)


def test_black_and_white(tmp_path):
    dots = (np.indices((16, 16)).sum(0) % 2 * 255).astype(np.uint8)
    assert (read_photo(saved(tmp_path / "a.png", dots, mode="1")) == dots[..., None]).all()


def test_cmyk_jpeg(tmp_path):
    assert_close(read_photo(saved(tmp_path / "a.jpg", mode="CMYK", quality=95)), PORTRAIT, 6)


@pytest.mark.parametrize("transparent", [False, True])
def test_palette_png(tmp_path, transparent):
    image = Image.new("P", (20, 10), 0)
    image.putpalette([200, 10, 30, 20, 150, 60])
    image.paste(1, (10, 0, 20, 10))
    image.save(tmp_path / "a.png", **({"transparency": 1} if transparent else {}))
    pixels = read_photo(tmp_path / "a.png")
    assert (pixels[:, :10] == (200, 10, 30)).all()
    assert (pixels[:, 10:] == (255 if transparent else (20, 150, 60))).all()


@pytest.mark.parametrize("suffix", ["gif", "webp"])
def test_of_an_animation_the_first_frame(tmp_path, suffix):
    frames = [Image.new("RGB", (30, 20), colour) for colour in ("red", "lime", "blue")]
    frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:], duration=50, lossless=True)
    with Image.open(tmp_path / f"a.{suffix}") as image:
        assert image.n_frames == 3
    assert (read_photo(tmp_path / f"a.{suffix}") == (255, 0, 0)).all()


def test_the_two_pictures_in_one_file_of_some_phones(tmp_path):
    saved(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[Image.fromarray(PORTRAIT[::-1])], quality=95)
    with Image.open(tmp_path / "a.jpg") as image:
        assert image.format == "MPO" and image.n_frames == 2
    assert_close(read_photo(tmp_path / "a.jpg"), PORTRAIT, 5)


@pytest.mark.parametrize("suffix", ["heic", "avif"])
def test_a_turned_heic_or_avif_ends_upright(tmp_path, suffix):
    image = Image.fromarray(np.ascontiguousarray(STORED[6](PORTRAIT)))
    image.getexif()[0x0112] = 6
    image.save(tmp_path / f"a.{suffix}", exif=image.getexif().tobytes(), quality=95)
    assert_close(read_photo(tmp_path / f"a.{suffix}"), PORTRAIT, 6)


def test_a_ten_bit_heic(tmp_path):
    deep = Image.frombytes("I;16", (96, 80), (PORTRAIT[..., 1].astype(np.uint16) * 257).tobytes())
    deep.save(tmp_path / "a.heic", quality=95)
    assert_close(read_photo(tmp_path / "a.heic"), np.dstack([PORTRAIT[..., 1]] * 3), 6)


def swapping_profile() -> bytes:
    """sRGB's profile with the roles of red and blue exchanged: a file that carries it stores BGR."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    for one, other in ((b"rXYZ", b"bXYZ"), (b"rTRC", b"bTRC")):
        entries = {
            tag: at for at in range(132, 132 + 12 * struct.unpack(">I", profile[128:132])[0], 12)
            for tag in (one, other) if profile[at : at + 4] == tag
        }  # fmt: skip
        profile[entries[one] : entries[one] + 4], profile[entries[other] : entries[other] + 4] = other, one
    return bytes(profile)


@pytest.mark.parametrize("suffix", ["png", "tif", "jpg", "webp", "heic", "avif"])
def test_a_colour_profile_is_applied(tmp_path, suffix):
    stored = np.ascontiguousarray(PORTRAIT[..., ::-1])
    soft = np.asarray(Image.fromarray(stored).filter(ImageFilter.GaussianBlur(2)))  # lossy formats halve colours' sharpness
    profile, lossless = swapping_profile(), suffix in ("png", "tif")
    file = saved(tmp_path / f"a.{suffix}", soft, icc_profile=profile, **({} if lossless else {"quality": 95}))
    assert_close(read_photo(file), soft[..., ::-1], 1 if lossless else 6)


def test_a_profile_on_transparent_and_grey_pictures(tmp_path):
    alpha = np.full(PORTRAIT.shape[:2], 255, np.uint8)
    alpha[:, 60:] = 0
    file = saved(tmp_path / "a.png", np.dstack([PORTRAIT[..., ::-1], alpha]), icc_profile=swapping_profile())
    pixels = read_photo(file)
    assert_close(pixels[:, :60], PORTRAIT[:, :60], 1)
    assert (pixels[:, 60:] >= 254).all()
    grey = saved(tmp_path / "grey.png", PORTRAIT[..., 0], icc_profile=swapping_profile())  # of another kind: passed over
    assert (read_photo(grey) == PORTRAIT[..., :1]).all()


@pytest.mark.parametrize("profile", [b"no profile at all", swapping_profile()[:200], b"\0" * 3000])
def test_a_damaged_profile_is_passed_over(tmp_path, profile):
    assert (read_photo(saved(tmp_path / "a.png", icc_profile=profile)) == PORTRAIT).all()


@pytest.mark.parametrize(
    "content",
    [b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"%PDF-1.7\n",
     b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x0a\xfa\x1f", b"8BPS\0\1", b"PK\3\4"],
    ids=["eps", "svg", "pdf", "jp2", "jxl", "psd", "zip"],
)  # fmt: skip
def test_other_formats_are_refused(tmp_path, content):
    (tmp_path / "a.jpg").write_bytes(content + b" " * 100)
    assert refusal(tmp_path / "a.jpg") == "not an image in a supported format"


# By EXIF's definition: which sides of the upright picture the stored first row and first column are.
STORED = {
    1: lambda up: up,  # top, left
    2: lambda up: up[:, ::-1],  # top, right
    3: lambda up: up[::-1, ::-1],  # bottom, right
    4: lambda up: up[::-1],  # bottom, left
    5: lambda up: up.swapaxes(0, 1),  # left, top
    6: lambda up: up[:, ::-1].swapaxes(0, 1),  # right, top
    7: lambda up: up[::-1, ::-1].swapaxes(0, 1),  # right, bottom
    8: lambda up: up[::-1].swapaxes(0, 1),  # left, bottom
}


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_every_exif_orientation_ends_upright(tmp_path, orientation, suffix):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.ascontiguousarray(STORED[orientation](PORTRAIT))
    file = saved(tmp_path / f"a.{suffix}", stored, exif=exif, **({"quality": 95} if suffix == "jpg" else {}))
    assert_close(read_photo(file), PORTRAIT, 5 if suffix == "jpg" else 0)


def in_every_mode(folder):
    """A file of each kind of pixels that is converted in its own way."""
    alpha = np.linspace(0, 255, PORTRAIT[..., 0].size).reshape(PORTRAIT.shape[:2]).astype(np.uint8)
    ramp = np.linspace(0, 300, alpha.size, dtype=np.float32).reshape(alpha.shape)
    ramp[0, 0] = np.nan
    palette = Image.fromarray(PORTRAIT).quantize(64)
    palette.save(folder / "palette.png", transparency=3)
    palette.save(folder / "palette.gif")
    exif = Image.Exif()
    exif[0x0112] = 6
    return [
        folder / "palette.png", folder / "palette.gif",
        saved(folder / "alpha.png", np.dstack([PORTRAIT, alpha]), icc_profile=swapping_profile()),
        saved(folder / "grey-alpha.png", np.dstack([PORTRAIT[..., 0], alpha])),
        saved(folder / "deep.png", alpha.astype(np.uint16) * 257),
        saved(folder / "float.tif", ramp), saved(folder / "dots.png", mode="1"), saved(folder / "grey.png", mode="L"),
        saved(folder / "turned.tif", exif=exif), saved(folder / "turned.png", exif=exif),
        saved(folder / "ink.jpg", mode="CMYK"), saved(folder / "colour.webp", lossless=True), saved(folder / "phone.heic"),
    ]  # fmt: skip


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_a_pixel_of_a_reduced_photo_is_the_mean_of_a_square(tmp_path, factor):
    """Also where sides are no multiples of the factor."""
    large = 80 * 96 // factor**2
    for file in in_every_mode(tmp_path):
        full, reduced = read_photo(file), read_scaled_photo(file, reduce_above=large)
        assert reduced.scale == factor
        expected = cv2.resize(full, None, fx=1 / factor, fy=1 / factor, interpolation=cv2.INTER_AREA)
        assert_close(reduced.pixels, expected, 4 if file.suffix == ".jpg" else 1)


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("suffix", ["jpg", "mpo", "png"])
def test_a_place_in_a_reduced_photo_is_a_place_in_the_upright_photo(tmp_path, orientation, suffix):
    """A bright square stays where it is; 501 x 403 is no multiple of any factor."""
    upright = np.zeros((403, 501, 3), np.uint8)
    upright[240:320, 120:200] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"mpo": {"format": "MPO", "save_all": True, "append_images": [Image.new("RGB", (501, 403))]}}.get(suffix, {})
    stored = np.ascontiguousarray(STORED[orientation](upright))
    file = saved(tmp_path / f"a.{suffix}", stored, exif=exif, **options)
    for factor in (1, 2, 4, 8):
        pixels, scale = read_scaled_photo(file, reduce_above=upright[..., 0].size // factor**2 + 1)
        assert scale == factor
        assert pixels.shape == (-(-403 // factor), -(-501 // factor), 3) and pixels.flags.c_contiguous
        rows, columns = np.nonzero(pixels[..., 0] > 127)
        found = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]) * scale
        assert np.abs(found - (120, 240, 200, 320)).max() <= factor


def test_photos_are_reduced_no_more_than_needed(tmp_path):
    file = saved(tmp_path / "a.jpg")  # 96 x 80
    sizes = {7680: 1, 7679: 2, 1920: 2, 1919: 4, 480: 4, 479: 8, 1: 8}
    assert {large: read_scaled_photo(file, reduce_above=large).scale for large in sizes} == sizes
    assert (read_scaled_photo(file).pixels == read_photo(file)).all()
    with pytest.raises(UnreadablePhoto, match="at most 100 pixels"):
        read_scaled_photo(file, max_pixels=100, reduce_above=50)
    thin = saved(tmp_path / "thin.jpg", np.full((3, 4000, 3), 200, np.uint8))
    pixels, scale = read_scaled_photo(thin, reduce_above=1000)
    assert (pixels.shape, scale) == ((1, 1000, 3), 4) and abs(int(pixels.mean()) - 200) < 3


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no resource module")
@pytest.mark.parametrize(
    ("suffix", "options", "reader", "bytes_a_pixel"),
    [("jpg", {}, "read_photo", 10), ("png", {"compress_level": 1}, "read_photo", 10),
     ("jpg", {}, "read_scaled_photo", 10 / 4), ("jpg", {"progressive": True}, "read_scaled_photo", 10 / 4 + 3),
     ("png", {"compress_level": 1}, "read_scaled_photo", 4 + 10 / 4)],
)  # fmt: skip
def test_memory_for_a_large_photo(tmp_path, suffix, options, reader, bytes_a_pixel):
    """Pillow's image has 4 bytes a pixel, its conversion to an array takes 6, and only JPEG is decoded at a reduced size."""
    width, height = 8000, 7000
    file = tmp_path / f"large.{suffix}"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(PORTRAIT).resize((width, height)).save(file, exif=exif, **options)
    code = f"""
import resource, sys
from src.faces import image_io
unit = 1 if sys.platform == "darwin" else 1024
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
image_io.{reader}(sys.argv[1])
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * unit)
"""
    done = subprocess.run([sys.executable, "-c", code, str(file)], cwd=ROOT, capture_output=True, text=True, check=True)
    assert int(done.stdout) < bytes_a_pixel * width * height + 60e6


def touch(file):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()
    return file


def test_a_folder_gives_its_pictures_sorted_and_without_the_hidden(tmp_path):
    wanted = [touch(tmp_path / name) for name in ("B.JPG", "a.jpeg", "c/a.WebP", "c/d/z.TIFF", "x y é.png")]
    for name in (".hidden.jpg", ".git/a.jpg", "c/.thumbs/a.jpg", "notes.txt", "a.jpg.bak", "jpg"):
        touch(tmp_path / name)
    (tmp_path / "folder.png").mkdir()
    assert list_photos([tmp_path]) == sorted(wanted)
    assert list_photos([str(tmp_path / "c")]) == [wanted[2], wanted[3]]


def test_places_keep_their_order_and_missing_ones_stay(tmp_path):
    inside = [touch(tmp_path / "folder" / name) for name in ("1.jpg", "2.jpg")]
    odd = touch(tmp_path / "photo.xyz")
    gone = tmp_path / "gone.jpg"
    assert list_photos([gone, odd, tmp_path / "folder", inside[0]]) == [gone, odd, *inside, inside[0]]


def test_a_pattern_gives_the_pictures_that_it_matches(tmp_path, monkeypatch):
    for name in ("b.jpg", "a.jpg", "c.PNG", "notes.txt", ".hidden.jpg", "in/d.jpg", "in/deep/e.jpg", "in/deep/f.txt"):
        touch(tmp_path / name)
    monkeypatch.chdir(tmp_path)

    def listed(*patterns):
        return [path.as_posix() for path in list_photos(list(patterns))]

    assert listed("*.jpg") == ["a.jpg", "b.jpg"]
    assert listed("?.PNG", "[ab].jpg") == ["c.PNG", "a.jpg", "b.jpg"]
    everything = ["a.jpg", "b.jpg", "c.PNG", "in/d.jpg", "in/deep/e.jpg"]
    assert listed("*") == listed("**") == everything  # the folder that is matched gives its pictures, each once
    assert listed("**/*.jpg") == [name for name in everything if name != "c.PNG"]
    assert listed("i*/deep") == ["in/deep/e.jpg"]
    assert listed(str(tmp_path / "*.PNG")) == [(tmp_path / "c.PNG").as_posix()]


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(tmp_path):
    named, other = touch(tmp_path / "a[1].jpg"), touch(tmp_path / "a1.jpg")
    assert list_photos([named]) == [named]
    named.unlink()
    assert list_photos([named]) == [other]


@pytest.mark.parametrize("name", ["*.jpg", "no[thing]/**", "*.txt", "a\0*", "x" * 300 + "?"])
def test_a_pattern_without_a_match_stays_and_is_refused(tmp_path, name):
    touch(tmp_path / "notes.txt")
    assert list_photos([tmp_path / name]) == [tmp_path / name]
    assert refusal(tmp_path / name) == "no file matches this pattern"


@pytest.mark.parametrize("places", [[""], ["a.jpg", ""]])
def test_an_empty_name_is_refused(places):
    with pytest.raises(ValueError, match="empty name"):
        list_photos(places)


def test_the_home_folder_is_found_and_a_name_with_a_tilde_is_a_name(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    (tmp_path / "photo.jpg").touch()
    assert list_photos(["~"]) == [tmp_path / "photo.jpg"]
    assert list_photos(["~nobody at all.jpg", "n" * 300]) == [Path("~nobody at all.jpg"), Path("n" * 300)]
