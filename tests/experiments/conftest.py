"""Synthetic faces in the folder layouts of UTKFace and FairFace."""

import cv2
import numpy as np
import pytest
from PIL import Image

from src.config import AGE_GROUPS, GENDERS
from src.data.fairface import AGES
from src.sample import scene
from src.sample.face_model import FaceModel
from src.sample.person import new_person

FACES = 60  # of each data set
RACES = ("White", "Black", "East Asian", "Indian", "Latino_Hispanic")
COPY = f"FairFace/train/{FACES + 1}.png"  # of the first picture of UTKFace/


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """A folder with UTKFace/ and FairFace/, whose labels fit the faces."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "UTKFace").mkdir()
    (folder / "FairFace" / "train").mkdir(parents=True)
    space, rng, lines = FaceModel.load(), np.random.default_rng(7), ["file,age,gender,race,service_test"]
    for i in range(2 * FACES):
        group, gender = i % 8, GENDERS[i // 8 % 2]
        picture, _ = scene.snapshot(space, [new_person(space, group, gender, rng)], (150, 150), 100, rng)
        low, high = AGE_GROUPS["adience"].years[group]
        age = int(rng.integers(low, min(high, 90) + 1))
        if i < FACES:
            name = f"UTKFace/{age}_{1 - GENDERS.index(gender)}_{i % 5}_{20170101000000000 + i}.png"
        else:
            number = i - FACES + 1
            name = f"FairFace/train/{number}.png"
            label = list(AGES)[AGE_GROUPS["fairface"].index([age], [age])[0]]
            lines.append(f"train/{number}.png,{label},{gender.capitalize()},{RACES[i % 5]},True")
        Image.fromarray(picture).save(folder / name)
        if i == 0:
            again = cv2.imdecode(cv2.imencode(".jpg", picture[3:, 2:], [cv2.IMWRITE_JPEG_QUALITY, 70])[1], cv2.IMREAD_COLOR)
            Image.fromarray(again).save(folder / COPY)
    lines.append(f"train/{FACES + 1}.png,0-2,Female,White,False")
    (folder / "FairFace" / "fairface_label_train.csv").write_text("\n".join(lines) + "\n")
    return folder
