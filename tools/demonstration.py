"""The demonstration video, docs/demo.mp4, and the README's animation, docs/figures/demo.webp: `make video`.

    python -m tools.demonstration [--video docs/demo.mp4] [--animation docs/figures/demo.webp]

All faces are synthetic. The predictions and the training curves are those of the released models.
"""

import argparse
import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from experiments import results
from src import config
from src.evaluation import plots
from src.faces.image_io import read_photo
from src.files import atomic_write
from src.predict.annotate import annotate
from src.predict.predictor import predict
from src.predict.video import write_video
from src.processes import run_command
from src.sample import draw
from tools import cards, people

VIDEO, ANIMATION = config.DOCS / "demo.mp4", config.DOCS / "figures" / "demo.webp"
FPS = 20
NOTEBOOK = config.NOTEBOOKS / "1_Gender_Classification.ipynb"
_PHOTOS = ("one_face", "three_faces", "several_faces", "twenty_faces")
ANIMATION_SIZE = (800, 450)
ANIMATION_STEP = 5  # every fifth frame of the video is in the animation

Frames = Iterator[cards.Frame]


def still(frame: cards.Frame, seconds: float) -> Frames:
    """Repeats a frame."""
    return itertools.repeat(frame, round(seconds * FPS))


def notebook() -> Frames:
    """Scrolls through a notebook."""
    page = cards.notebook_page(NOTEBOOK)
    for top in np.linspace(0, page.shape[0] - cards.BODY, 10 * FPS).round().astype(int):
        yield cards.captioned(page[top : top + cards.BODY], "make run: the notebooks lead from data to a saved model")


def curves() -> Frames:
    """Shows how the curves of the released models grew during training."""
    history = results.read_results("released_history")
    caption = f"Training of the released models: {len(history)} epochs on UTKFace, FairFace and All-Age-Faces"
    for epoch in range(1, len(history) + 1):
        canvas = FigureCanvasAgg(plots.curves(history[:epoch], len(history)))
        canvas.figure.set_dpi(1180 / canvas.figure.get_size_inches()[0])
        canvas.draw()
        frame = cards.captioned(np.array(canvas.buffer_rgba())[..., :3], caption)
        yield from still(frame, 5.5 / len(history))
    yield from still(frame, 1.5)


def photos() -> Frames:
    """Shows photos without and with their predictions."""
    folder = draw.draw_sample() / "photos"
    table = predict([folder / f"{name}.jpg" for name in _PHOTOS], progress=False)
    for path, rows in table.groupby("photo", sort=False):
        photo = read_photo(path)
        caption = f"python -m src.predict {Path(path).name} --annotate annotated/"
        yield from still(cards.captioned(photo, caption), 0.7)
        yield from still(cards.captioned(annotate(photo, rows), caption), 2.5)


def video() -> Frames:
    """Shows people who walk past each other, with one prediction per person."""
    frames = people.walk(FPS)
    caption = "In a video, each person is tracked and has one prediction, the mean over all detections"
    for frame, rows in zip(frames, people.track(frames, FPS), strict=True):
        yield cards.captioned(annotate(frame, rows, legend=False) if len(rows) else frame, caption)


def film(animation: list[Image.Image]) -> Frames:
    """Yields all scenes one after another; adds small copies of the photo and video scenes to `animation`."""
    title = "Age and gender from face photos", "a two-level network · all faces in this video are synthetic"
    yield from still(cards.text_card([title]), 3)
    yield from itertools.chain(notebook(), curves())
    for i, frame in enumerate(itertools.chain(photos(), video())):
        if i % ANIMATION_STEP == 0:
            animation.append(Image.fromarray(frame).resize(ANIMATION_SIZE))
        yield frame
    commands = (
        ("make run", "sets everything up and runs all notebooks"),
        ("make test", "sets everything up and runs the tests"),
    )
    yield from still(cards.text_card(commands), 3)


def write_animation(frames: list[Image.Image], target: Path) -> None:
    """Writes an animated WebP that repeats."""
    with atomic_write(target) as new:
        options = {"duration": 1000 * ANIMATION_STEP // FPS, "loop": 0, "quality": 55, "method": 3}
        frames[0].save(new, save_all=True, append_images=frames[1:], **options)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.demonstration", description="Makes the demonstration video.")
    parser.add_argument("--video", type=Path, default=VIDEO)
    parser.add_argument("--animation", type=Path, default=ANIMATION)
    options = parser.parse_args(arguments)
    animation: list[Image.Image] = []
    write_video(film(animation), (cards.WIDTH, cards.HEIGHT), FPS, options.video)
    write_animation(animation, options.animation)
    for path in (options.video, options.animation):
        print(f"{path}  {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    run_command(main)
