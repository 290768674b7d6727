"""The still pictures of the demonstration: titles, captions, a notebook as a page. Before `demonstration`.

Every picture is uint8 RGB, (720, 1280, 3) unless said otherwise.
"""

import base64
import io
import re
import textwrap
from pathlib import Path

import cv2
import matplotlib
import nbformat
import numpy as np
import pygments
from PIL import Image, ImageDraw, ImageFont
from pygments.lexers import PythonLexer
from pygments.styles import get_style_by_name

WIDTH, HEIGHT, BAR = 1280, 720, 56
BODY = HEIGHT - BAR  # pixels above the caption
NIGHT, PAPER, INK = (24, 32, 44), (255, 255, 255), (34, 34, 34)
FONTS = Path(matplotlib.get_data_path(), "fonts", "ttf")
MARGIN = 90  # of the notebook's page
CELLS = 16  # that it shows
LETTERS = 104  # of code in a line


def font(size: int, face: str = "DejaVuSans") -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(FONTS / f"{face}.ttf"), size)


def captioned(picture: np.ndarray, words: str) -> np.ndarray:
    """A picture of any size, as large as it fits, over a line of words."""
    height, width = picture.shape[:2]
    scale = min(WIDTH / width, BODY / height)
    size = round(width * scale), round(height * scale)
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    fitted = picture if scale == 1 else cv2.resize(picture, size, interpolation=way)
    frame = np.full((HEIGHT, WIDTH, 3), 255 if picture[:3, :3].min() == 255 else 20, np.uint8)
    top, left = (BODY - fitted.shape[0]) // 2, (WIDTH - fitted.shape[1]) // 2
    frame[top : top + fitted.shape[0], left : left + fitted.shape[1]] = fitted
    frame[BODY:] = NIGHT
    image = Image.fromarray(frame)
    face = "DejaVuSansMono" if words.startswith("python") else "DejaVuSans"
    ImageDraw.Draw(image).text((WIDTH / 2, BODY + BAR / 2), words, "white", font(22, face), anchor="mm")
    return np.array(image)


def title(words: str, below: str, faces: list[np.ndarray]) -> np.ndarray:
    """Words on a wall of faces: 144 pictures, uint8 (h, w, 3)."""
    small = [cv2.resize(face, (80, 80), interpolation=cv2.INTER_AREA) for face in faces]
    wall = np.vstack([np.hstack(small[start : start + 16]) for start in range(0, 144, 16)])
    image = Image.fromarray((wall * 0.5 + np.array(NIGHT) * 0.5).astype(np.uint8))
    pen = ImageDraw.Draw(image)
    pen.rectangle((0, 250, WIDTH, 470), NIGHT)
    pen.text((WIDTH / 2, 335), words, "white", font(58, "DejaVuSans-Bold"), anchor="mm")
    pen.text((WIDTH / 2, 415), below, (190, 200, 212), font(27), anchor="mm")
    return np.array(image)


def commands(lines: tuple[tuple[str, str], ...]) -> np.ndarray:
    """Commands, each with what it does."""
    image = Image.new("RGB", (WIDTH, HEIGHT), NIGHT)
    pen = ImageDraw.Draw(image)
    for i, (command, says) in enumerate(lines):
        y = HEIGHT / 2 + 150 * (i - (len(lines) - 1) / 2)
        pen.text((WIDTH / 2, y - 24), command, "white", font(50, "DejaVuSansMono-Bold"), anchor="mm")
        pen.text((WIDTH / 2, y + 34), says, (190, 200, 212), font(26), anchor="mm")
    return np.array(image)


def notebook_page(path: Path) -> np.ndarray:
    """A notebook's first cells with their pictures, as one long page: uint8 (h, 1280, 3)."""
    strips = [_blank(30)]
    for cell in nbformat.read(path, as_version=4).cells[:CELLS]:
        strips.append(_markdown(cell.source) if cell.cell_type == "markdown" else _code(cell.source))
        for output in cell.get("outputs", []):
            if picture := output.get("data", {}).get("image/png"):
                strips.append(_picture(picture))
    return np.vstack([*strips, _blank(40)])


def _blank(height: int) -> np.ndarray:
    return np.full((height, WIDTH, 3), PAPER, np.uint8)


def _markdown(text: str) -> np.ndarray:
    lines = []
    for paragraph in filter(None, text.split("\n")):
        level = len(paragraph) - len(paragraph.lstrip("#"))
        plain = re.sub(r"\[(.*?)\]\(.*?\)", r"\1", paragraph.lstrip("# ")).replace("*", "").replace("`", "")
        face = font((20, 34, 27)[min(level, 2)], "DejaVuSans-Bold" if level else "DejaVuSans")
        letters = int((WIDTH - 2 * MARGIN) / face.getlength(plain) * len(plain))
        lines += [(line, face) for line in textwrap.wrap(plain, letters)]
    image = Image.new("RGB", (WIDTH, sum(round(face.size) + 11 for _, face in lines) + 22), PAPER)
    pen, y = ImageDraw.Draw(image), 6
    for line, face in lines:
        pen.text((MARGIN, y), line, INK, face)
        y += round(face.size) + 11
    return np.array(image)


def _code(source: str) -> np.ndarray:
    """Code in colours, in a grey box."""
    face, style = font(18, "DejaVuSansMono"), get_style_by_name("friendly")
    height = 26 * (source.count("\n") + 1) + 28
    image = Image.new("RGB", (WIDTH, height + 22), PAPER)
    pen = ImageDraw.Draw(image)
    pen.rounded_rectangle((MARGIN - 14, 0, WIDTH - MARGIN + 14, height), 8, (246, 247, 249), (222, 226, 232))
    x, y, advance = 0, 0, face.getlength("m")
    for kind, text in pygments.lex(source, PythonLexer()):
        colour = style.style_for_token(kind)["color"] or "222222"
        for i, part in enumerate(text.split("\n")):
            x, y = (0, y + 1) if i else (x, y)
            if x < LETTERS:
                pen.text((MARGIN + x * advance, 14 + 26 * y), part[: LETTERS - x], f"#{colour}", face)
            x += len(part)
    return np.array(image)


def _picture(coded: str) -> np.ndarray:
    picture = Image.open(io.BytesIO(base64.b64decode(coded))).convert("RGB")
    scale = min(1.2, (WIDTH - 2 * MARGIN) / picture.width)
    picture = picture.resize((round(picture.width * scale), round(picture.height * scale)), Image.Resampling.LANCZOS)
    strip = Image.new("RGB", (WIDTH, picture.height + 22), PAPER)
    strip.paste(picture, (MARGIN, 0))
    return np.array(strip)
