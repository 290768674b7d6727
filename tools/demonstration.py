"""The demonstration, docs/demo.mp4, and the README's moving picture, docs/figures/demo.webp: `make video`.

    python -m tools.demonstration [--video docs/demo.mp4] [--picture docs/figures/demo.webp]

A notebook, curves that grow, photos that are answered, and a video: every face is drawn, every answer is the released
models'. The curves are those of the models' own training, from docs/results.
"""

import argparse
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from experiments import results
from src import config
from src.evaluation import plots
from src.faces.image_io import read_photo
from src.files import atomic_write
from src.models.model_folder import ModelFolderError
from src.predict.annotate import annotate
from src.predict.predictor import predict
from src.predict.video import write_video
from src.sample import draw
from tools import cards, people

VIDEO, PICTURE = config.ROOT / "docs" / "demo.mp4", config.ROOT / "docs" / "figures" / "demo.webp"
FPS = 20
NOTEBOOK = config.NOTEBOOKS / "1_Gender_Classification.ipynb"
SHOWN = ("one_face", "three_faces", "several_faces", "twenty_faces")
SMALL = (800, 450)  # pixels of the moving picture
SLOW = 5  # video frames to one of the moving picture

Frames = Iterator[np.ndarray]  # uint8 (720, 1280, 3), RGB


def seconds(count: float) -> int:
    return round(count * FPS)


def still(frame: np.ndarray, length: float) -> Frames:
    return itertools.repeat(frame, seconds(length))


def opening() -> Frames:
    faces = [read_photo(path) for path in sorted((draw.draw_sample() / "adience" / "faces").glob("*/*.jpg"))[:144]]
    yield from still(
        cards.title("Age and gender from face photos", "a two-level network · every face here is drawn", faces), 3
    )


def notebook() -> Frames:
    """A notebook from its top downwards, slowly, quickly, slowly."""
    page, length = cards.notebook_page(NOTEBOOK), 10.0
    words = "make run: notebooks from data to a saved model, with the reason for every step"
    way = page.shape[0] - cards.BODY
    for i in range(seconds(length)):
        share = np.clip((i / seconds(length) - 0.08) / 0.84, 0, 1)
        top = round(way * share * share * (3 - 2 * share))
        yield cards.captioned(page[top : top + cards.BODY], words)


def curves() -> Frames:
    """The loss and the accuracy of the released models' training, epoch by epoch."""
    history = results.read_results("released_history").rename(
        columns={"gender_accuracy": "accuracy", "val_gender_accuracy": "val_accuracy"}
    )
    words = f"Curves grow as it learns: the released models, {len(history)} epochs on UTKFace and FairFace"
    for epoch in range(1, len(history) + 1):
        shown = cards.captioned(pixels(plots.curves(history[:epoch], len(history))), words)
        yield from still(shown, 5.5 / len(history))
    yield from still(shown, 1.5)


def pixels(figure: Figure) -> np.ndarray:
    """A figure with a margin, as uint8 (h, 1280, 3), RGB."""
    figure.set_dpi(1180 / figure.get_size_inches()[0])
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.pad(np.asarray(canvas.buffer_rgba())[..., :3], ((0, 0), (50, 50), (0, 0)), constant_values=255)


def photos() -> Frames:
    """Photos as they come, then face by face with the answers."""
    folder = draw.draw_sample() / "photos"
    table = predict([folder / f"{name}.jpg" for name in SHOWN], progress=False)
    for path, rows in table.groupby("photo", sort=False):
        photo = read_photo(path)
        words = f"python -m src.predict {Path(path).name} --annotate answers/"
        yield from still(cards.captioned(photo, words), 0.7)
        for count in range(1, len(rows) + 1):
            frame = cards.captioned(annotate(photo, rows[:count]), words)
            yield from still(frame, max(1 / FPS, min(0.4, 1.2 / len(rows))))
        yield from still(frame, 1.6)


def video() -> Frames:
    """People who walk by, followed; each keeps one colour and one answer."""
    frames = people.walk(FPS)
    for frame, rows in zip(frames, people.followed(frames, FPS), strict=True):
        words = "A video: whoever is followed keeps one answer, the mean over all looks"
        yield cards.captioned(annotate(frame, rows, legend=False) if len(rows) else frame, words)


def ending() -> Frames:
    lines = ("make run", "everything set up, all notebooks run"), ("make test", "everything set up, all tests run")
    yield from still(cards.commands(lines), 3)


def faded(scenes: list[Frames], length: float = 0.3) -> Frames:
    """Scenes one after another, each rising out of the last frame of the one before."""
    last = None
    for scene in scenes:
        for i, frame in enumerate(scene):
            share = min(1.0, (i + 1) / seconds(length)) if last is not None else 1.0
            yield frame if share == 1 or last is None else cv2.addWeighted(frame, share, last, 1 - share, 0)
            end = frame
        last = end


def noted(scene: Frames, small: list[Image.Image]) -> Frames:
    """The scene as it is; now and then a frame is kept, made small, for the moving picture."""
    for i, frame in enumerate(scene):
        if i % SLOW == 0:
            small.append(Image.fromarray(cv2.resize(frame, SMALL, interpolation=cv2.INTER_AREA)))
        yield frame


def write_picture(small: list[Image.Image], target: Path) -> None:
    """Writes an animated WebP that begins anew when it ends."""
    with atomic_write(target) as new:
        small[0].save(new, save_all=True, append_images=small[1:], duration=1000 * SLOW // FPS, loop=0, quality=55, method=3)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.demonstration", description="Makes the demonstration video.")
    parser.add_argument("--video", type=Path, default=VIDEO)
    parser.add_argument("--picture", type=Path, default=PICTURE)
    options = parser.parse_args(arguments)
    try:
        still_ones: list[Image.Image] = []
        moving: list[Image.Image] = []
        scenes = [opening(), notebook(), curves(), noted(photos(), still_ones), noted(video(), moving), ending()]
        write_video(faded(scenes), (cards.WIDTH, cards.HEIGHT), FPS, options.video)
        write_picture(moving + still_ones, options.picture)  # whoever sees only its first frame sees answers
    except (ModelFolderError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for path in (options.video, options.picture):
        print(f"{path}  {path.stat().st_size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
