"""The committed models still predict well: a floor on a fixed set of drawn faces."""

import numpy as np
import pytest

from src.config import AGE_GROUPS, GENDERS
from src.predict import predict
from src.sample.face_model import FaceModel
from src.sample.person import new_person
from src.sample.scene import snapshot


@pytest.fixture(scope="module")
def people():
    """Photos of 96 drawn adults and children, with their genders and age groups."""
    model, rng = FaceModel.load(), np.random.default_rng(5)
    photos, genders, groups = [], [], []
    for i in range(96):
        gender, group = GENDERS[i % 2], i // 2 % 8
        photos.append(snapshot(model, [new_person(model, group, gender, rng)], (224, 224), 110, rng)[0])
        genders.append(gender)
        groups.append(group)
    return photos, np.array(genders), np.array(groups)


def test_the_committed_models_recognise_drawn_people(people):
    photos, genders, groups = people
    table = predict(photos, progress=False)
    assert (table["status"] == "ok").all() and len(table) == len(photos)
    adults = groups >= 3
    correct = (table["gender"] == genders).to_numpy()
    predicted = table["age_group"].map({name: i for i, name in enumerate(AGE_GROUPS["adience"].names)}).to_numpy(int)
    # Drawn, so other figures than on photos. Measured: 93%, 98% and 70% with the models of version 1.0, and 92%, 98% and 60%
    # with the fine-tuned teacher FaceRes, from which the student of the next release starts.
    assert correct[adults].mean() >= 0.85
    assert (abs(predicted - groups) <= 1).mean() >= 0.90
    assert (predicted == groups).mean() >= 0.50
