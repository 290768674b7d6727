"""Training: it learns, augments as its settings say, leaves the test faces alone, and resumes where a kill stopped it."""

import contextlib
import dataclasses
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest

from src.config import ROOT
from src.files import TEMPORARY_PREFIX
from src.keras_setup import fused_normalisation, keras, layers
from src.models import train
from src.models.train import FaceBatches, TrainingSettings, augment
from src.models.two_level_cnn import two_level_cnn

SIZE = 32
COUNT = 120
LEARN = TrainingSettings(epochs=6, batch_size=8, learning_rate=5e-3, patience=6)
HISTORY = ["epoch", "accuracy", "loss", "val_accuracy", "val_loss", "seconds"]
STILL = {"rotation": 0, "zoom": 0, "shift": 0, "brightness": 0}
FURTHER = ("grayscale_probability", "downscale_probability", "random_erasing_probability")


class Killed(Exception):
    """Raised between two epochs, as a kill would stop there."""


class Recorded:
    """Faces that remember which of them were read."""

    def __init__(self, faces):
        self.faces, self.read = faces, set()

    def __getitem__(self, rows):
        self.read |= set(np.ravel(rows).tolist())
        return self.faces[rows]


def network():
    """A two-level network whose level one only averages, so that an epoch takes no time."""
    face = keras.Input((SIZE, SIZE, 3), dtype="uint8")
    means = layers.AveragePooling2D(8)(layers.Rescaling(1 / 127.5, offset=-1)(face))
    return two_level_cnn(2, level_one_model=keras.Model(face, layers.Flatten()(means), name="level_one"))


@pytest.fixture(scope="module")
def model():
    return network()


@pytest.fixture(scope="module")
def task():
    """(faces, rows, labels, split): noise whose upper half is dark (0) or bright (1); a sixth validation, a sixth test."""
    rng = np.random.default_rng(1)
    faces, labels = rng.integers(60, 120, (COUNT, SIZE, SIZE, 3), np.uint8), np.arange(COUNT) % 2
    faces[labels == 1, : SIZE // 2] += 100
    return faces, np.arange(COUNT), labels, np.repeat(["train", "validation", "test"], [80, 20, 20])


@pytest.fixture(scope="module")
def learnt(model, task, tmp_path_factory):
    """The trained model, its history, the faces that remember what was read, and the folder of the states."""
    faces, *rest = task
    recorded, states = Recorded(faces), tmp_path_factory.mktemp("states")
    return *train.fit(model, recorded, *rest, LEARN, checkpoint_folder=states), recorded, states


def same_weights(one, other):
    return all(map(np.array_equal, one.get_weights(), other.get_weights()))


def loss(model, faces, rows, labels):
    probability = train.predict_probabilities(model, faces, rows)
    return -np.log(probability[np.arange(len(rows)), labels]).mean()


# --- learning ---------------------------------------------------------------------------------------------------------


def test_it_learns_and_gives_back_the_best_epoch(task, learnt):
    faces, rows, labels, split = task
    model, history, recorded, _ = learnt
    test, held = split == "test", split == "validation"
    probability = train.predict_probabilities(model, faces, rows[test])
    assert probability.shape == (20, 2) and probability.dtype == np.float32
    assert (probability.argmax(axis=1) == labels[test]).mean() >= 0.95
    assert loss(model, faces, rows[held], labels[held]) == pytest.approx(history["val_loss"].min(), rel=1e-3, abs=1e-5)
    assert recorded.read == set(rows[~test].tolist()), "the test faces must not be read"
    assert list(history.columns) == HISTORY and history["epoch"].tolist() == list(range(1, len(history) + 1))
    assert history.notna().all(axis=None)


def test_a_finished_training_is_returned_at_once(task, learnt):
    model, history, _, states = learnt
    files = {path: path.stat().st_mtime_ns for path in states.rglob("epoch-*/*")}
    seen = []
    again = train.fit(network(), *task, LEARN, seen.append, states)
    assert same_weights(again[0], model) and again[1].equals(history)
    assert len(seen) == 1 and seen[0].equals(history)
    assert {path: path.stat().st_mtime_ns for path in states.rglob("epoch-*/*")} == files
    (folder,) = states.iterdir()
    kept = {len(history), int(history["epoch"][history["val_loss"].argmin()])}
    assert {path.name for path in folder.glob("epoch-*")} == {f"epoch-{epoch:03d}" for epoch in kept}


@pytest.mark.slow
def test_it_stops_when_patience_is_out_and_gives_the_best(model, task, tmp_path):
    """Validation labels contradict the training labels, so that each epoch makes the validation loss worse."""
    faces, rows, labels, split = task
    held = split == "validation"
    settings = TrainingSettings(epochs=9, batch_size=16, patience=2)
    best, history = train.fit(
        model, faces, rows, np.where(held, 1 - labels, labels), split, settings, checkpoint_folder=tmp_path
    )
    number = history["val_loss"].argmin()
    assert len(history) == number + 1 + settings.patience < settings.epochs
    assert loss(best, faces, rows[held], 1 - labels[held]) == pytest.approx(history["val_loss"][number], rel=1e-3)


# --- batches and augmentation -----------------------------------------------------------------------------------------


def batches(task, settings=None, epoch=0):
    """Twenty faces, each labelled with its own number."""
    rows = np.arange(3, 23)
    return FaceBatches(task[0], rows, rows, 8, settings, epoch)


def all_of(data):
    return tuple(np.concatenate(parts) for parts in zip(*(data[i] for i in range(len(data)))))


def test_training_shows_each_face_once_an_epoch_in_a_new_order(task):
    data, orders = batches(task, TrainingSettings()), set()
    for _ in range(3):
        faces, labels = all_of(data)
        assert faces.shape == (20, SIZE, SIZE, 3) and faces.dtype == np.uint8 and sorted(labels) == list(range(3, 23))
        orders.add(tuple(labels))
        data.on_epoch_end()
    assert len(orders) == 3


def test_validation_is_neither_shuffled_nor_changed(task):
    data = batches(task)
    for _ in range(2):
        faces, labels = all_of(data)
        assert labels.tolist() == list(range(3, 23)) and np.array_equal(faces, task[0][3:23])
        data.on_epoch_end()


def test_the_faces_of_an_epoch_depend_on_seed_and_epoch_alone(task):
    before, second = task[0].copy(), batches(task, TrainingSettings())
    second.on_epoch_end()
    faces, labels = all_of(second)
    same = all_of(batches(task, TrainingSettings(), epoch=1))
    assert np.array_equal(faces, same[0]) and np.array_equal(labels, same[1])
    for settings, epoch in ((TrainingSettings(), 0), (TrainingSettings(seed=2), 1)):
        other = all_of(batches(task, settings, epoch))
        assert not np.array_equal(faces[labels.argsort()], other[0][other[1].argsort()])
    assert np.array_equal(task[0], before), "the faces themselves must stay as they were"


def test_batches_for_several_devices(monkeypatch):
    monkeypatch.setattr("src.models.train.device_count", lambda: 4)
    faces, labels = np.zeros((10, 8, 8, 3), np.uint8), np.arange(10)
    held = [FaceBatches(faces, np.arange(10), labels, 8)[i] for i in range(2)]
    assert [len(batch[0]) for batch in held] == [8, 4]
    assert held[1][2].tolist() == [1, 1, 0, 0] and held[1][1][:2].tolist() == [8, 9]
    training, seen = FaceBatches(faces, np.arange(10), labels, 8, TrainingSettings()), []
    for _ in range(20):
        seen.append(set(training.order))
        training.on_epoch_end()
    assert {len(epoch) for epoch in seen} == {8} and set.union(*seen) == set(range(10))
    with pytest.raises(ValueError, match="multiple of the 4 devices, got 6"):
        FaceBatches(faces, np.arange(10), labels, 6)


def test_augmentation_mirrors_faces_but_never_turns_them_upside_down():
    face = np.full((SIZE, SIZE, 3), 200, np.uint8)
    face[SIZE // 2 :] = 40
    face[:, : SIZE // 2, 2] = 0  # no blue on the left, which tells the mirrored faces from the others
    mirrored = 0
    for seed in range(200):
        changed = augment(face, np.random.default_rng(seed), TrainingSettings())
        assert changed.shape == face.shape and changed.dtype == np.uint8
        assert changed[: SIZE // 3].mean() > 1.5 * changed[-SIZE // 3 :].mean()
        mirrored += changed[..., : SIZE // 3, 2].mean() > changed[..., -SIZE // 3 :, 2].mean()
    assert 60 < mirrored < 140


def coloured(size=64):
    """Squares of few colours, two pixels wide: a lower resolution mixes them."""
    squares = np.random.default_rng(1).choice(np.array([0, 250], np.uint8), (size // 2, size // 2, 3))
    return np.repeat(np.repeat(squares, 2, axis=0), 2, axis=1)


def augmented(count, face=None, **settings):
    """Augmented faces, mirrored back where need be."""
    face = coloured() if face is None else face
    for seed in range(count):
        new = augment(face, np.random.default_rng(seed), TrainingSettings(**STILL, **settings))
        yield min((new, new[:, ::-1]), key=lambda new: np.abs(new.astype(int) - face).sum())


@pytest.mark.parametrize("name", FURTHER)
@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_a_share_of_faces_is_augmented_further(name, probability):
    share = np.mean([not np.array_equal(new, coloured()) for new in augmented(200, **{name: probability})])
    assert abs(share - probability) < (0.1 if probability == 0.3 else 1e-9)


def test_grayscale_faces_have_no_colour():
    for new in augmented(10, grayscale_probability=1.0):
        assert (new == new[..., :1]).all()
        assert np.corrcoef(new[..., 0].ravel(), coloured().mean(axis=2).ravel())[0, 1] > 0.85


def test_downscaled_faces_have_lost_details_and_nothing_else():
    face, kept = coloured().astype(int), []
    for new in augmented(50, downscale_probability=1.0):
        assert abs(new.mean() - face.mean()) < 3
        kept.append(new.std() / face.std())
    assert max(kept) < 1 and min(kept) < 0.5 < np.median(kept)


def test_erased_faces_have_a_patch_of_noise():
    face, sides = np.full((96, 96, 3), 128, np.uint8), []
    for new in augmented(100, face, random_erasing_probability=1.0):
        rows, columns = (np.flatnonzero((new != 128).any(axis=axis)) for axis in ((1, 2), (0, 2)))
        patch = new[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert (patch != 128).mean() > 0.95 and patch.std() > 55 and (new != 128).sum() == (patch != 128).sum()
        sides += patch.shape[:2]
    assert 10 <= min(sides) <= 16 and 28 <= max(sides) <= 32  # from an eighth to a third of the side


# --- resuming ---------------------------------------------------------------------------------------------------------


def test_an_interrupted_training_resumes_with_the_same_result(model, task, learnt, tmp_path):
    def stop(history):
        if len(history) == 2:
            raise Killed

    with pytest.raises(Killed):
        train.fit(model, *task, LEARN, stop, tmp_path)
    (folder,) = tmp_path.iterdir()
    half_written = folder / f"{TEMPORARY_PREFIX}abcdef"
    half_written.mkdir()
    seen = []
    resumed, history = train.fit(network(), *task, LEARN, lambda table: seen.append(len(table)), tmp_path)
    assert list(tmp_path.iterdir()) == [folder] and not half_written.exists()
    assert seen == list(range(2, len(history) + 1)), "finished epochs must not be repeated"
    figures = HISTORY[1:5]
    assert history[figures].to_numpy() == pytest.approx(learnt[1][figures].to_numpy(), rel=1e-6)
    assert same_weights(resumed, learnt[0])


KILLED = """
import sys
from pathlib import Path
import numpy as np
from src.models import train, two_level_cnn
folder = Path(sys.argv[1])
faces, rows, labels, split = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("faces", "rows", "labels", "split"))
settings = train.TrainingSettings(epochs=4, batch_size=8)
model = two_level_cnn.two_level_cnn(2, faces.shape[1])
train.fit(model, faces, rows, labels, split, settings, checkpoint_folder=folder / "states")
"""


@pytest.mark.slow
def test_a_killed_process_is_resumed_by_another(tmp_path):
    rng = np.random.default_rng(1)
    arrays = rng.integers(0, 256, (40, 127, 127, 3), np.uint8), np.arange(40), np.arange(40) % 2
    arrays = *arrays, np.repeat(["train", "validation"], [30, 10])
    for name, array in zip(("faces", "rows", "labels", "split"), arrays):
        np.save(tmp_path / f"{name}.npy", array)
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], cwd=ROOT)
    states, deadline = tmp_path / "states", time.monotonic() + 240
    while not list(states.glob("*/epoch-*")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.kill()
    process.wait()
    before = pd.read_json(max(states.glob("*/epoch-*/history.json")))
    assert len(before) < 4, "the training had ended before it could be killed"
    settings = TrainingSettings(epochs=4, batch_size=8)
    resumed, history = train.fit(two_level_cnn(2, 127), *arrays, settings, checkpoint_folder=states)
    assert len(list(states.iterdir())) == 1, "the state was not found again"
    pd.testing.assert_frame_equal(history[: len(before)], before[HISTORY], check_dtype=False)
    straight, undisturbed = train.fit(two_level_cnn(2, 127), *arrays, settings, checkpoint_folder=tmp_path / "straight")
    assert history[HISTORY[1:5]].to_numpy() == pytest.approx(undisturbed[HISTORY[1:5]].to_numpy(), rel=1e-6)
    assert same_weights(resumed, straight)


def test_another_training_has_another_state(model, task):
    faces, rows, labels, split = task
    other = network()
    other.set_weights([weights + 0.01 for weights in model.get_weights()])
    settings = TrainingSettings()

    def name(model=model, faces=faces, labels=labels, settings=settings, loss="sparse_categorical_crossentropy"):
        return train._state_name(model, faces, rows, labels, split, settings, (loss,))

    names = [
        name(),
        name(other),
        name(faces=255 - faces),
        name(labels=1 - labels),
        name(labels=labels + 0.25),
        name(settings=dataclasses.replace(settings, seed=2)),
        name(settings=dataclasses.replace(settings, learning_rate=2e-3)),
        name(loss="mse"),
    ]
    assert len(set(names)) == len(names) and name() == names[0] == name(network())


# --- the rest ---------------------------------------------------------------------------------------------------------


def own_loss(labels, outputs):
    """A loss that Keras has not registered."""
    return 2 * keras.losses.sparse_categorical_crossentropy(labels, outputs)


class OwnMetric(keras.metrics.SparseCategoricalAccuracy):
    """A metric that Keras has not registered."""


@pytest.mark.slow
def test_a_loss_and_a_metric_of_ones_own_resume(model, task, tmp_path):
    settings = dataclasses.replace(LEARN, epochs=1)
    runs = [
        train.fit(model, *task, settings, checkpoint_folder=tmp_path, loss=own_loss, metrics=(OwnMetric,)) for _ in range(2)
    ]
    pd.testing.assert_frame_equal(runs[0][1], runs[1][1])
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.slow
def test_a_training_that_diverges_is_an_error(model, task, tmp_path):
    def not_a_number(labels, outputs):
        return keras.ops.sum(outputs, axis=1) * float("nan")

    with pytest.raises(ValueError, match="not a number"):
        train.fit(model, *task, dataclasses.replace(LEARN, epochs=1), checkpoint_folder=tmp_path, loss=not_a_number)


def test_another_body_of_a_loss_is_another_training(model, task):
    faces, rows, labels, split = task

    def loss(labels, outputs):
        return 1.0

    first = train._state_name(model, faces, rows, labels, split, LEARN, (loss,))

    def loss(labels, outputs):
        return 2.0

    assert train._state_name(model, faces, rows, labels, split, LEARN, (loss,)) != first


@pytest.mark.parametrize("options", [{"scale": False}, {"center": False}, {"axis": 1}])
def test_unusual_normalisation_layers_train(options):
    layer = layers.BatchNormalization(**options)
    network = keras.Sequential([keras.Input((4, 5, 6)), layer])
    network.compile("sgd", "mse")
    values = np.random.default_rng(1).normal(size=(8, 4, 5, 6))
    with fused_normalisation():
        assert np.isfinite(network.train_on_batch(values, values))


def test_centre_years():
    table = pd.DataFrame({"age_low": [0, 2, 25, 60], "age_high": [2, 2, 32, 60], "label": [0, 0, 1, 2]}, dtype="Int64")
    assert train.centre_years(table, 3).tolist() == [1.5, 28.5, 60]
    with pytest.raises(ValueError, match="a training face of each of the 4 classes, class 3 has none"):
        train.centre_years(table, 4)


def normalised():
    """A level one with batch normalisation."""
    face = keras.Input((SIZE, SIZE, 3), dtype="uint8")
    x = layers.Rescaling(1 / 127.5, offset=-1)(face)
    for seed in (1, 2):
        x = layers.Conv2D(8, 3, 2, kernel_initializer=keras.initializers.HeNormal(seed))(x)
        x = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))
    return keras.Model(face, layers.Flatten()(x), name="level_one")


@pytest.mark.slow
def test_normalisation_by_one_kernel_trains_as_keras_does(task):
    faces, labels, trained = task[0][:8], task[2][:8], []
    for way in (contextlib.nullcontext(), fused_normalisation()):
        # Two steps: what is left of rounding grows with each.
        model = two_level_cnn(2, level_one_model=normalised())
        model.compile(keras.optimizers.AdamW(1e-4), "sparse_categorical_crossentropy", jit_compile=False)
        keras.utils.set_random_seed(1)
        with way:
            losses = [model.train_on_batch(faces, labels) for _ in range(2)]
        trained.append((losses, model.predict(faces, verbose=0), model.get_weights()))
    (one, said, weights), (other, said_too, weights_too) = trained
    assert one[0] != one[1]  # something was learnt
    np.testing.assert_allclose(one, other, rtol=1e-3)
    np.testing.assert_allclose(said, said_too, atol=5e-3)
    for ours, theirs in zip(weights, weights_too, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=3e-3, rtol=0.05)
