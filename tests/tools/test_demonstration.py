"""The demonstration: its pictures fit, whoever is followed keeps one answer, and what is committed plays in a browser."""

import imageio_ffmpeg
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from src.predict import video
from tools import cards, people
from tools import demonstration as demo

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def walked():
    frames = people.walk(10)
    return frames, people.followed(frames, 10)


def test_everybody_in_the_composed_video_is_followed_to_the_end(walked):
    frames, rows = walked
    assert len(frames) == len(rows) == 10 * people.LENGTH + 1 and frames[0].shape == (cards.BODY, cards.WIDTH, 3)
    assert len(rows[-1]) == len(people.WALKERS)
    centres = (rows[-1]["left"] + rows[-1]["right"]) / 2 / cards.WIDTH
    assert np.allclose(sorted(centres), sorted(walker.x[1] for walker in people.WALKERS), atol=0.03)


def test_whoever_is_followed_keeps_one_answer_and_moves_smoothly(walked):
    _, rows = walked
    everything = pd.concat(rows)
    assert everything["person"].nunique() == len(people.WALKERS)
    for _, mine in everything.groupby("person"):
        assert len(mine[["gender", "age_group", "age_years"]].drop_duplicates()) == 1
        step = (mine[["left", "top"]].diff().abs() / mine[["frame"]].diff().to_numpy()).max().max()
        assert step < min(walker.size for walker in people.WALKERS) / 2  # less than half a face: nobody becomes another


def test_every_card_is_of_the_videos_size():
    face = np.full((90, 90, 3), 128, np.uint8)
    pictures = [cards.title("Words", "below", [face] * 144), cards.commands((("make run", "runs"),))]
    pictures += [
        cards.captioned(face, "words"),
        cards.captioned(np.zeros((400, 1280, 3), np.uint8), "python -m src.predict"),
    ]
    assert {picture.shape for picture in pictures} == {(cards.HEIGHT, cards.WIDTH, 3)}


def test_a_notebook_becomes_a_page_with_its_pictures():
    page = cards.notebook_page(demo.NOTEBOOK)
    assert page.shape[0] > 3 * cards.HEIGHT and page.shape[1:] == (cards.WIDTH, 3) and page.dtype == np.uint8
    colours = np.unique(page[::5, ::5].reshape(-1, 3), axis=0)
    assert len(colours) > 1000  # drawn faces among the code


def test_scenes_rise_out_of_one_another(tmp_path):
    black, white = (np.full((cards.HEIGHT, cards.WIDTH, 3), value, np.uint8) for value in (0, 255))
    frames = list(demo.faded([demo.still(black, 1), demo.still(white, 1)]))
    means = [frame.mean() for frame in frames]
    assert len(frames) == 2 * demo.FPS and means[demo.FPS - 1] == 0 and means[-1] == 255 and means == sorted(means)
    assert 0 < means[demo.FPS] < 255
    small = []
    video.write_video(demo.noted(iter(frames), small), (cards.WIDTH, cards.HEIGHT), demo.FPS, tmp_path / "a.mp4")
    demo.write_picture(small, tmp_path / "a.webp")
    assert imageio_ffmpeg.count_frames_and_secs(str(tmp_path / "a.mp4"))[0] == len(frames)
    picture = Image.open(tmp_path / "a.webp")
    assert picture.size == demo.SMALL and len(small) == len(frames) / demo.SLOW


def test_what_is_committed_is_short_and_small_and_plays_in_browsers():
    reader = imageio_ffmpeg.read_frames(str(demo.VIDEO))
    facts = next(reader)
    reader.close()
    assert (
        facts["codec"] == "h264" and facts["pix_fmt"].startswith("yuv420p") and facts["size"] == (cards.WIDTH, cards.HEIGHT)
    )
    assert 30 <= facts["duration"] <= 60 and demo.VIDEO.stat().st_size <= 10e6
    picture = Image.open(demo.PICTURE)
    assert picture.n_frames > 20 and demo.PICTURE.stat().st_size <= 5e6
