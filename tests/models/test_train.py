"""Training: that it learns, augments as it says, leaves the test faces alone, and goes on where a kill stopped it."""

import contextlib
import dataclasses
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest

from src.files import HIDDEN
from src.keras_setup import fused_normalisation, keras, layers
from src.models import train, two_level_cnn
from src.models.train import FaceBatches, TrainingSettings, augment

SMALL = 127
COUNT = 120
LEARN = TrainingSettings(epochs=10, batch_size=8, learning_rate=5e-4, patience=10)
HISTORY = ["epoch", "accuracy", "loss", "val_accuracy", "val_loss", "seconds"]


class Recorded:
    """Faces that remember which of them were looked at."""

    def __init__(self, faces):
        self.faces, self.read = faces, set()

    def __getitem__(self, rows):
        self.read |= set(np.ravel(rows).tolist())
        return self.faces[rows]


@pytest.fixture(scope="module")
def task():
    """(faces, labels, part): noise whose upper half is dark (0) or bright (1); a sixth validation, a sixth test."""
    rng = np.random.default_rng(1)
    faces = rng.integers(60, 120, (COUNT, SMALL, SMALL, 3), np.uint8)
    labels = np.arange(COUNT) % 2
    faces[labels == 1, : SMALL // 2] += 100
    part = np.repeat(["train", "validation", "test"], [80, 20, 20])
    return faces, labels, part


@pytest.fixture(scope="module")
def learnt(task, tmp_path_factory):
    """What `fit` gave for the task, the faces as it left them, and the folder of its state."""
    faces, labels, part = task
    recorded, states = Recorded(faces), tmp_path_factory.mktemp("states")
    model = two_level_cnn.two_level_cnn(2, SMALL)
    model, history = train.fit(model, recorded, np.arange(COUNT), labels, part, LEARN, states=states)
    return model, history, recorded, states


def small_task(task):
    """Sixteen faces, and a level one that only averages: an epoch takes no time."""
    face = keras.Input((SMALL, SMALL, 3), dtype="uint8")
    means = layers.AveragePooling2D(32)(layers.Rescaling(1 / 127.5, offset=-1)(face))
    first = keras.Model(face, layers.Flatten()(means), name="level_one")
    rows = np.r_[0:8, 80:84, 100:104]
    return two_level_cnn.two_level_cnn(2, first=first), task[0], rows, task[1][rows], task[2][rows]


def weights_equal(one, other):
    return all(map(np.array_equal, one.get_weights(), other.get_weights()))


def loss(model, faces, rows, labels):
    """The mean cross-entropy of a model's answers."""
    said = train.predict_probabilities(model, faces, rows)
    return -np.log(said[np.arange(len(rows)), labels]).mean()


# --- learning ---------------------------------------------------------------------------------------------------------


def test_it_learns_what_can_be_learnt(task, learnt):
    faces, labels, part = task
    model, history, _, _ = learnt
    said = train.predict_probabilities(model, faces, np.flatnonzero(part == "test"))
    assert said.shape == (20, 2) and said.dtype == np.float32
    assert (said.argmax(axis=1) == labels[part == "test"]).mean() >= 0.95
    assert history["val_accuracy"].iloc[history["val_loss"].argmin()] >= 0.95


def test_history_has_a_row_an_epoch(learnt):
    history = learnt[1]
    assert list(history.columns) == HISTORY
    assert history["epoch"].tolist() == list(range(1, len(history) + 1)) and 1 < len(history) <= LEARN.epochs
    assert history.notna().all(axis=None) and (history["seconds"] > 0).all()


def test_the_best_epoch_is_given_back(task, learnt):
    faces, labels, part = task
    model, history, _, _ = learnt
    rows = np.flatnonzero(part == "validation")
    assert loss(model, faces, rows, labels[rows]) == pytest.approx(history["val_loss"].min(), rel=1e-3, abs=1e-5)


def test_the_test_faces_are_never_touched(task, learnt):
    assert learnt[2].read == set(np.flatnonzero(task[2] != "test").tolist())


def test_finished_training_is_given_at_once(task, learnt):
    faces, labels, part = task
    model, history, _, states = learnt
    files = {path: path.stat().st_mtime_ns for path in states.rglob("epoch-*/*")}
    seen = []
    again = train.fit(
        two_level_cnn.two_level_cnn(2, SMALL), faces, np.arange(COUNT), labels, part, LEARN, seen.append, states
    )
    assert weights_equal(again[0], model) and again[1].equals(history)
    assert len(seen) == 1 and seen[0].equals(history)
    assert {path: path.stat().st_mtime_ns for path in states.rglob("epoch-*/*")} == files


def test_only_the_newest_and_the_best_state_are_kept(learnt):
    _, history, _, states = learnt
    wanted = {len(history), int(history["epoch"][history["val_loss"].argmin()])}
    (folder,) = states.iterdir()
    assert {path.name for path in folder.iterdir()} - {".lock"} == {f"epoch-{epoch:03d}" for epoch in wanted}


def test_it_stops_when_patience_is_out_and_gives_the_best(task, tmp_path):
    """Validation labels that contradict the training: behind fixed features each epoch makes the loss worse."""
    model, faces, rows, labels, part = small_task(task)
    labels = np.where(part == "validation", 1 - labels, labels)
    settings = TrainingSettings(epochs=9, batch_size=4, patience=2)
    given, history = train.fit(model, faces, rows, labels, part, settings, states=tmp_path)
    best = history["val_loss"].argmin()
    assert len(history) == best + 1 + settings.patience < settings.epochs
    held = part == "validation"
    assert loss(given, faces, rows[held], labels[held]) == pytest.approx(history["val_loss"][best], rel=1e-3)
    assert history["val_loss"].iloc[-1] > history["val_loss"][best] * 1.01


# --- batches and augmentation -----------------------------------------------------------------------------------------


def batches(task, settings=None, epoch=0):
    """Twenty of the task's faces, each labelled with its own number."""
    rows = np.arange(3, 23)
    return FaceBatches(task[0], rows, rows, 8, settings, epoch)


def drawn(data):
    parts = [data[i] for i in range(len(data))]
    return np.concatenate([faces for faces, _ in parts]), np.concatenate([labels for _, labels in parts])


def test_each_face_once_an_epoch(task):
    data = batches(task, TrainingSettings())
    orders = []
    for _ in range(3):
        faces, labels = drawn(data)
        assert faces.shape == (20, SMALL, SMALL, 3) and faces.dtype == np.uint8
        assert sorted(labels) == list(range(3, 23))
        orders.append(tuple(labels))
        data.on_epoch_end()
    assert len(set(orders)) == 3


def test_validation_is_neither_shuffled_nor_changed(task):
    data = batches(task)
    for _ in range(2):
        faces, labels = drawn(data)
        assert labels.tolist() == list(range(3, 23)) and np.array_equal(faces, task[0][3:23])
        data.on_epoch_end()


def test_an_epochs_faces_depend_on_seed_and_epoch_alone(task):
    before = task[0].copy()
    moved_on = batches(task, TrainingSettings())
    moved_on.on_epoch_end()
    here, again = drawn(moved_on), drawn(batches(task, TrainingSettings(), epoch=1))
    assert np.array_equal(here[0], again[0]) and np.array_equal(here[1], again[1])

    def differs(other):
        return not np.array_equal(here[0][here[1].argsort()], other[0][other[1].argsort()])

    assert differs(drawn(batches(task, TrainingSettings(), epoch=0)))
    assert differs(drawn(batches(task, TrainingSettings(seed=2), epoch=1)))
    assert np.array_equal(task[0], before), "the faces themselves must stay as they were"


def test_augmentation_never_turns_a_face_upside_down():
    face = np.full((SMALL, SMALL, 3), 200, np.uint8)
    face[SMALL // 2 :] = 40
    face[:, : SMALL // 2, 2] = 0  # no blue on the left: tells the mirrored from the others
    mirrored = 0
    for seed in range(200):
        changed = augment(face, np.random.default_rng(seed), TrainingSettings())
        assert changed.shape == face.shape and changed.dtype == np.uint8
        assert changed[: SMALL // 3].mean() > 1.5 * changed[-SMALL // 3 :].mean()
        mirrored += changed[..., : SMALL // 3, 2].mean() > changed[..., -SMALL // 3 :, 2].mean()
    assert 60 < mirrored < 140


def test_augmentation_of_nothing_changes_nothing_but_the_side():
    settings = TrainingSettings(rotation=0, zoom=0, shift=0, brightness=0)
    face = np.random.default_rng(1).integers(0, 256, (SMALL, SMALL, 3), np.uint8)
    for seed in range(10):
        changed = augment(face, np.random.default_rng(seed), settings)
        assert np.array_equal(changed, face) or np.array_equal(changed, face[:, ::-1])


STILL = {"rotation": 0, "zoom": 0, "shift": 0, "brightness": 0}


def coloured(size=64):
    """Squares of few colours, two pixels wide: coarser, they mix."""
    squares = np.random.default_rng(1).choice(np.array([0, 250], np.uint8), (size // 2, size // 2, 3))
    return np.repeat(np.repeat(squares, 2, axis=0), 2, axis=1)


def changed(settings, seeds=200, face=None):
    face = coloured() if face is None else face
    for seed in range(seeds):
        new = augment(face, np.random.default_rng(seed), settings)
        assert new.shape == face.shape and new.dtype == np.uint8
        # Mirrored or not, whichever is nearer.
        yield min((new, new[:, ::-1]), key=lambda new: np.abs(new.astype(int) - face).sum())


def test_the_further_augmentations_are_off_by_default():
    assert (TrainingSettings().grey, TrainingSettings().coarse, TrainingSettings().erased) == (0, 0, 0)


@pytest.mark.parametrize("kind", ["grey", "coarse", "erased"])
def test_a_share_of_faces_is_augmented_further(kind):
    face = coloured()
    for share in (0.0, 0.3, 1.0):
        touched = np.mean([not np.array_equal(new, face) for new in changed(TrainingSettings(**STILL, **{kind: share}))])
        assert abs(touched - share) < (0.1 if share == 0.3 else 1e-9)


def test_grey_faces_have_no_colour():
    for new in changed(TrainingSettings(**STILL, grey=1.0), 10):
        assert (new == new[..., :1]).all()
        assert np.corrcoef(new[..., 0].ravel(), coloured().mean(axis=2).ravel())[0, 1] > 0.85


def test_coarse_faces_have_lost_what_is_fine_and_nothing_else():
    face = coloured().astype(int)
    kept = []
    for new in changed(TrainingSettings(**STILL, coarse=1.0), 50):
        assert abs(new.mean() - face.mean()) < 3
        kept.append(new.std() / face.std())
    assert max(kept) < 1 and min(kept) < 0.5 < np.median(kept)


def test_erased_faces_have_a_patch_of_noise():
    face, sides = np.full((96, 96, 3), 128, np.uint8), []
    for new in changed(TrainingSettings(**STILL, erased=1.0), 100, face):
        rows, columns = (np.flatnonzero((new != 128).any(axis=axis)) for axis in ((1, 2), (0, 2)))
        patch = new[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert (patch != 128).mean() > 0.95 and patch.std() > 55, "the patch is whole, and noise"
        assert (new != 128).sum() == (patch != 128).sum()
        sides += patch.shape[:2]
    assert 10 <= min(sides) <= 16 and 28 <= max(sides) <= 32  # from an eighth to a third of the side


def test_the_further_augmentations_leave_the_others_as_they_were():
    """Drawn last, they change no training that does without them."""
    face = np.full((64, 64, 3), 90, np.uint8)
    face[:, 20:30] = 200
    for seed in range(20):
        plain = augment(face, np.random.default_rng(seed), TrainingSettings())
        grey = augment(face, np.random.default_rng(seed), TrainingSettings(grey=1.0))
        assert np.abs(plain.astype(int) - grey).max() <= 1  # the face has no colour: only rounding


def test_labels_of_several_numbers_go_with_their_faces(task):
    rows = np.arange(3, 23)
    labels = np.column_stack([rows, rows / 7, -rows]).astype(np.float32)
    data = FaceBatches(task[0], rows, labels, 8, TrainingSettings(**STILL))
    faces, given = drawn(data)
    assert given.shape == (20, 3) and given.dtype == np.float32 and sorted(given[:, 0]) == list(range(3, 23))
    for face, label in zip(faces, given):
        original = task[0][int(label[0])]
        assert label[1:] == pytest.approx([label[0] / 7, -label[0]])
        assert np.array_equal(face, original) or np.array_equal(face, original[:, ::-1])


def test_float_labels_have_a_state_of_their_own(task, tmp_path):
    """A difference that whole numbers would not show."""
    model, faces, rows, _, part = small_task(task)
    settings = TrainingSettings(epochs=1, batch_size=8)
    for i, share in enumerate((0.2, 0.4, 0.2)):
        labels = np.tile(np.float32([share, 1 - share]), (len(rows), 1))
        history = train.fit(
            model, faces, rows, labels, part, settings, states=tmp_path, loss="categorical_crossentropy", metrics=("mae",)
        )[1]
        assert list(history) == ["epoch", "loss", "mae", "val_loss", "val_mae", "seconds"]
        assert len(list(tmp_path.iterdir())) == min(i + 1, 2)


# --- going on ---------------------------------------------------------------------------------------------------------

INTERRUPTED = """
import sys
from pathlib import Path
import numpy as np
from src import network, train
folder = Path(sys.argv[1])
faces = np.load(folder / "faces.npy", mmap_mode="r")
rows, labels, part = np.load(folder / "rows.npy"), np.load(folder / "labels.npy"), np.load(folder / "part.npy")
settings = train.Settings(epochs=4, batch_size=8)
train.fit(network.two_level_cnn(2, faces.shape[1]), faces, rows, labels, part, settings, states=folder / "states")
"""


def test_a_killed_training_goes_on_as_if_nothing_had_been(task, tmp_path):
    faces, labels, part = task
    rows = np.r_[0:32, 80:100]
    for name, array in {"faces": faces, "rows": rows, "labels": labels[rows], "part": part[rows]}.items():
        np.save(tmp_path / f"{name}.npy", array)
    process = subprocess.Popen([sys.executable, "-c", INTERRUPTED, str(tmp_path)], cwd=tmp_path)
    states, deadline = tmp_path / "states", time.monotonic() + 240
    while not (saved := list(states.glob("*/epoch-*"))) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.kill()
    process.wait()
    assert saved, "no state was saved"
    newest = max(states.glob("*/epoch-*/history.json"))
    before = pd.read_json(newest)
    assert len(before) < 4, "the training had ended before it could be killed"

    half_written = newest.parent.with_name(f"{HIDDEN}abcdef")
    half_written.mkdir(exist_ok=True)
    (half_written / "history.json").write_text("[{")
    settings, given = TrainingSettings(epochs=4, batch_size=8), (faces, rows, labels[rows], part[rows])
    seen = []
    resumed, history = train.fit(two_level_cnn.two_level_cnn(2, SMALL), *given, settings, seen.append, states)
    assert len(list(states.iterdir())) == 1, "the state was not found again"
    assert not half_written.exists(), "what a kill left half written is in the way"
    assert history["epoch"].tolist() == [1, 2, 3, 4]
    assert [len(told) for told in seen] == list(range(len(before), 5)), "finished epochs must not be repeated"
    pd.testing.assert_frame_equal(history[: len(before)], before[HISTORY], check_dtype=False)

    straight, undisturbed = train.fit(two_level_cnn.two_level_cnn(2, SMALL), *given, settings, states=tmp_path / "straight")
    figures = HISTORY[1:5]
    assert history[figures].to_numpy() == pytest.approx(undisturbed[figures].to_numpy(), rel=1e-6)
    assert all(np.array_equal(a, b) for a, b in zip(resumed.get_weights(), straight.get_weights(), strict=True))


def test_another_training_has_another_state(task, tmp_path):
    model, faces, rows, labels, part = small_task(task)
    once = TrainingSettings(epochs=1, batch_size=8)

    def states_after(model=model, faces=faces, rows=rows, labels=labels, part=part, settings=once):
        history = train.fit(model, faces, rows, labels, part, settings, states=tmp_path)[1]
        assert len(history) == 1
        return len(list(tmp_path.iterdir()))

    assert states_after() == 1
    assert states_after() == 1
    assert states_after(settings=dataclasses.replace(once, seed=2)) == 2
    assert states_after(settings=dataclasses.replace(once, learning_rate=2e-3)) == 3
    assert states_after(faces=255 - faces) == 4
    assert states_after(labels=np.where(part == "train", 1 - labels, labels)) == 5
    other_start = two_level_cnn.copy_model(model)
    other_start.set_weights([weights + 0.01 for weights in model.get_weights()])
    assert states_after(other_start) == 6
    assert states_after(labels=np.where(part == "test", 1 - labels, labels)) == 6, "test labels are not looked at"


# --- the rest ---------------------------------------------------------------------------------------------------------


def test_centre_years():
    table = pd.DataFrame({"age_low": [0, 2, 25, 60], "age_high": [2, 2, 32, 60], "label": [0, 0, 1, 2]})
    table = table.astype({"age_low": "Int64", "age_high": "Int64"})
    assert train.centre_years(table, 3).tolist() == [1.5, 28.5, 60]
    with pytest.raises(ValueError, match="each of the 4 classes needs a training face, class 3 has none"):
        train.centre_years(table, 4)
    with pytest.raises(ValueError, match="class 1 has none"):
        train.centre_years(table[table["label"] != 1], 3)


def test_fast_dtype_is_one_that_keras_knows():
    assert train.fast_dtype() in ("float32", "mixed_bfloat16")
    assert two_level_cnn.level_two(8, 2, dtype=train.fast_dtype()).output_shape == (None, 2)


def test_normalisation_by_one_kernel_trains_as_keras_does(task):
    faces, labels, settings = task[0][:8], task[1][:8], dataclasses.replace(LEARN, learning_rate=1e-3)
    trained = []
    for way in (contextlib.nullcontext(), fused_normalisation()):
        # Two steps: what is left of rounding grows with each.
        model = two_level_cnn.two_level_cnn(2, first=two_level_cnn.residual_level_one(SMALL, inner=32))
        train.compile_model(model, 8, settings)
        keras.utils.set_random_seed(1)
        with way:
            losses = [model.train_on_batch(faces, labels)[0] for _ in range(2)]
        trained.append((losses, model.predict(faces, verbose=0), model.get_weights()))
    (one, said, weights), (other, said_too, weights_too) = trained
    assert one[0] != one[1]  # something was learnt
    np.testing.assert_allclose(one, other, rtol=1e-3)
    np.testing.assert_allclose(said, said_too, atol=5e-3)
    for ours, theirs in zip(weights, weights_too, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=3e-3, rtol=0.05)


def test_keras_own_normalisation_is_there_again_afterwards():
    before = layers.BatchNormalization.call
    with pytest.raises(KeyboardInterrupt), fused_normalisation():
        assert layers.BatchNormalization.call is not before or keras.backend.backend() != "tensorflow"
        raise KeyboardInterrupt
    assert layers.BatchNormalization.call is before
