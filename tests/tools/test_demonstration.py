"""The demonstration: everybody in the video is tracked, frames have the size of the film, the committed files play."""

import imageio_ffmpeg
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tools import cards, people
from tools import demonstration as demo


@pytest.mark.slow
def test_each_person_is_tracked_to_the_end_with_one_prediction():
    frames = people.walk(10)
    rows = people.track(frames, 10)
    assert len(frames) == len(rows) == 10 * people.LENGTH + 1 and frames[0].shape == (cards.BODY, cards.WIDTH, 3)
    centres = (rows[-1]["left"] + rows[-1]["right"]) / 2 / cards.WIDTH
    assert np.allclose(sorted(centres), sorted(walker.x[1] for walker in people.WALKERS), atol=0.03)
    everything = pd.concat(rows)
    # A face that is half hidden may get a number of its own for a few frames.
    counts = everything["person"].value_counts()
    assert (counts > 50).sum() == len(people.WALKERS) and counts[counts <= 50].sum() < 10
    for _, mine in everything.groupby("person"):
        assert len(mine[["gender", "age_group", "age_years"]].drop_duplicates()) == 1
        step = (mine[["left", "top"]].diff().abs() / mine[["frame"]].diff().to_numpy()).max().max()
        assert step < min(walker.size for walker in people.WALKERS) / 2  # less than half a face: nobody becomes another


def test_a_notebook_becomes_a_page_with_its_pictures():
    page = cards.notebook_page(demo.NOTEBOOK)
    assert page.shape[0] > 3 * cards.HEIGHT and page.shape[1:] == (cards.WIDTH, 3) and page.dtype == np.uint8
    assert len(np.unique(page[::5, ::5].reshape(-1, 3), axis=0)) > 1000  # drawn faces among the code


def test_the_committed_files_are_small_and_play_in_browsers():
    reader = imageio_ffmpeg.read_frames(str(demo.VIDEO))
    facts = next(reader)
    reader.close()
    assert facts["codec"] == "h264" and facts["pix_fmt"].startswith("yuv420p")
    assert facts["size"] == (cards.WIDTH, cards.HEIGHT) and 30 <= facts["duration"] <= 60
    assert demo.VIDEO.stat().st_size <= 10e6 and demo.ANIMATION.stat().st_size <= 5e6
    assert Image.open(demo.ANIMATION).n_frames > 20
