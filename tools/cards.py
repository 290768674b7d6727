"""The still frames of the demonstration, uint8 RGB (720, 1280, 3)."""

import base64
import io
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import matplotlib
import nbformat
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont, ImageOps
from pygments import highlight
from pygments.formatters import ImageFormatter
from pygments.lexers import MarkdownLexer, PythonLexer

WIDTH, HEIGHT, CAPTION = 1280, 720, 56
BODY = HEIGHT - CAPTION  # pixels above the caption
_BACKGROUND = (24, 32, 44)
_FONTS = Path(matplotlib.get_data_path(), "fonts", "ttf")
_CELLS, _LETTERS = 16, 104  # number of cells on a notebook page, and of letters in a line

Frame: TypeAlias = "npt.NDArray[np.uint8]"


def captioned(image: Frame, text: str) -> Frame:
    """Returns a frame with an image of any size, uint8 RGB (h, w, 3), above a line of text."""
    background = "white" if image[:3, :3].min() == 255 else "#141414"  # continues a white margin, such as a notebook's
    frame = Image.new("RGB", (WIDTH, HEIGHT), _BACKGROUND)
    frame.paste(ImageOps.pad(Image.fromarray(image), (WIDTH, BODY), color=background))
    font = "DejaVuSansMono" if text.startswith("python") else "DejaVuSans"
    _write(frame, BODY + CAPTION // 2, text, 22, font)
    return np.array(frame)


def text_card(lines: Sequence[tuple[str, str]]) -> Frame:
    """Returns a frame with large lines of text, each above a smaller line that explains it."""
    frame = Image.new("RGB", (WIDTH, HEIGHT), _BACKGROUND)
    for i, (large, small) in enumerate(lines):
        y = HEIGHT // 2 + 150 * i - 75 * (len(lines) - 1)
        _write(frame, y - 24, large, 50, "DejaVuSans-Bold")
        _write(frame, y + 34, small, 26, "DejaVuSans")
    return np.array(frame)


def notebook_page(path: Path) -> Frame:
    """Returns the first cells of a notebook with their figures as one long page, uint8 RGB (h, 1280, 3)."""
    images = []
    for cell in nbformat.read(path, as_version=4).cells[:_CELLS]:
        is_code = cell.cell_type == "code"
        lines = [line if is_code else textwrap.fill(line, _LETTERS) for line in cell.source.split("\n")]
        formatter = ImageFormatter(line_numbers=False, font_size=18, image_pad=12, style="friendly")
        images.append(highlight("\n".join(lines), PythonLexer() if is_code else MarkdownLexer(), formatter))
        figures = [output.get("data", {}).get("image/png") for output in cell.get("outputs", [])]
        images += [base64.b64decode(figure) for figure in figures if figure]
    page = [Image.open(io.BytesIO(image)).convert("RGB") for image in images]
    for image in page:
        image.thumbnail((WIDTH - 160, image.height))
    sheet = Image.new("RGB", (WIDTH, sum(image.height + 20 for image in page)), "white")
    y = 10
    for image in page:
        sheet.paste(image, (80, y))
        y += image.height + 20
    return np.array(sheet)


def _write(frame: Image.Image, y: int, text: str, size: int, font: str) -> None:
    """Writes a line of white text, centred at height y."""
    face = ImageFont.truetype(str(_FONTS / f"{font}.ttf"), size)
    ImageDraw.Draw(frame).text((WIDTH // 2, y), text, "white", face, anchor="mm")
