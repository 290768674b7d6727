"""What a model looks at in an aligned face, and how its answer changes with the picture.

Two maps that are made in unlike ways, so that one checks the other: Grad-CAM asks the network's gradients, occlusion only
its answers.

Before it: `answers`. After it: notebooks 3 and 4.
"""

import cv2
import matplotlib
import numpy as np

from src.evaluation.metrics import decode
from src.faces import align as face_tools
from src.faces.align import Alignment
from src.keras_setup import keras, ops
from src.models.model_folder import Labels, TrainedModel
from src.predict.decode import sum_to_classes

GREY = 128  # of the square that hides a part of the face


def answered_classes(trained: TrainedModel, face: np.ndarray) -> tuple[str, list[int]]:
    """The answer for one aligned face, uint8 (size, size, 3), RGB, and the model's classes that it sums up."""
    probability = np.asarray(trained.model(face[None], training=False))
    names, of_names = sum_to_classes(probability, trained.labels)
    name = names[decode(of_names, ordered=trained.labels.task == "age")[0]]
    return name, _classes(trained.labels, name)


def grad_cam(model: keras.Model, face: np.ndarray, classes: list[int]) -> np.ndarray:
    """Where level one's last convolution speaks for the classes: float32 (size, size), 0-1, 1 the strongest place.

    model: a two-level network. face: uint8 (size, size, 3), RGB. classes: indices, whose probabilities count together.
    Where level one looks at the face and its mirror image, both count. Raises ValueError where Keras's backend is not
    TensorFlow: Keras has no gradients of its own.

    Source: Selvaraju et al., "Grad-CAM: visual explanations from deep networks via gradient-based localization", ICCV 2017.
    """
    if keras.backend.backend() != "tensorflow":
        raise ValueError(f"Grad-CAM needs Keras's TensorFlow backend, got {keras.backend.backend()}")
    import tensorflow as tf

    first, second = model.get_layer("level_one"), model.get_layer("level_two")
    inner = [layer for layer in first.layers if isinstance(layer, keras.Model)]
    trunk = inner[0] if inner else first
    views = [face, face[:, ::-1]] if inner else [face]  # see residual.average_with_mirror_image
    both = keras.Model(trunk.inputs, [_last_map(trunk), trunk.output])
    with tf.GradientTape() as tape:
        maps, features = both([np.stack(views)], training=False)
        score = _log_odds(second, ops.mean(features, axis=0, keepdims=True), classes)
    slopes = np.asarray(tape.gradient(score, maps), np.float32)
    heat = np.maximum((np.asarray(maps) * slopes.mean(axis=(1, 2), keepdims=True)).sum(axis=-1), 0)
    heat = heat[0] + heat[1][:, ::-1] if inner else heat[0]
    return _full_size(heat, face.shape[0])


def occlusion(model: keras.Model, face: np.ndarray, classes: list[int], share: float = 0.2, steps: int = 14) -> np.ndarray:
    """How much probability is lost while a grey square hides a place: float32 (size, size), 0-1, 1 the largest loss.

    share: of the square's side in the face's. steps: places along each side. Zeros where hiding costs nothing.

    Source: Zeiler and Fergus, "Visualizing and understanding convolutional networks", ECCV 2014.
    """
    size = face.shape[0]
    side, middles = round(share * size), (np.arange(steps) + 0.5) / steps * size  # where `_full_size` takes the values to be
    corners = np.round(middles - side / 2).astype(int)
    hidden = np.repeat(face[None], steps * steps, axis=0)
    for picture, (top, left) in zip(hidden, ((top, left) for top in corners for left in corners)):
        picture[max(0, top) : top + side, max(0, left) : left + side] = GREY
    said = [np.asarray(model(some, training=False)) for some in np.array_split(hidden, -(-len(hidden) // 32))]
    kept = np.concatenate(said)[:, classes].sum(axis=1)
    whole = np.asarray(model(face[None], training=False))[0, classes].sum()
    return _full_size(np.maximum(whole - kept, 0).reshape(steps, steps), size)


def overlaid(face: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """The face in grey with the heat, (size, size) 0-1, in colour over it: uint8 (size, size, 3), RGB."""
    colours = matplotlib.colormaps["inferno"](heat)[..., :3] * 255
    grey = np.repeat(cv2.cvtColor(face, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)
    strength = 0.15 + 0.6 * heat[..., None]
    return np.uint8(np.round(grey * (1 - strength) + colours * strength))


def variants(photo: np.ndarray, found: face_tools.Face, alignment: Alignment) -> dict[str, np.ndarray]:
    """The same face aligned from changed photos: flipped, blurred, brighter, darker, cut tighter and wider.

    photo: uint8 (height, width, 3), RGB; found: a face in it. Gives uint8 (size, size, 3), RGB, by name.
    """
    face = face_tools.align_face(photo, found, alignment)
    sizes = {"tighter": 1.15, "wider": 0.85}
    return {
        "as it is": face,
        "flipped": np.ascontiguousarray(face[:, ::-1]),
        "blurred": cv2.GaussianBlur(face, (0, 0), alignment.size / 64),
        "brighter": np.uint8(np.clip(face * 1.4, 0, 255)),
        "darker": np.uint8(face * 0.6),
    } | {
        name: face_tools.align_face(photo, found, _zoomed(alignment, factor)) for name, factor in sizes.items()
    }  # fmt: skip


def _zoomed(alignment: Alignment, factor: float) -> Alignment:
    """The template seen closer or from farther away, about the middle of the face."""
    eyes = 0.5 + (alignment.eye_height - 0.5) * factor
    return Alignment(alignment.size, alignment.eye_distance * factor, eyes, alignment.gamma, alignment.denoise)


def _classes(labels: Labels, name: str) -> list[int]:
    _, of_names = sum_to_classes(np.eye(len(labels.classes)), labels)
    names, _ = sum_to_classes(np.zeros((1, len(labels.classes))), labels)
    return np.flatnonzero(of_names[:, names.index(name)]).tolist()


def _log_odds(second: keras.Model, features, classes: list[int]):
    """Of the classes against all others, from what goes into the softmax: probabilities near 1 have no slope left."""
    last = second.layers[-1] if isinstance(second, keras.Model) else second
    if last is not second:
        features = keras.Model(second.inputs, last.input)([features], training=False)
    given = ops.cast(features, "float32")
    logits = (ops.matmul(given, last.kernel) + last.bias)[0]
    others = np.setdiff1d(np.arange(logits.shape[0]), classes)
    return ops.logsumexp(ops.take(logits, np.array(classes))) - ops.logsumexp(ops.take(logits, others))


def _last_map(trunk: keras.Model):
    """What the last convolution ends in: the last output of its height and width, activated and with its shortcut."""
    last = [layer for layer in trunk.layers if isinstance(layer, keras.layers.Conv2D)][-1].output.shape[1:3]
    outputs = [layer.output for layer in trunk.layers if not isinstance(layer.output, (list, tuple))]
    return [output for output in outputs if len(output.shape) == 4 and output.shape[1:3] == last][-1]


def _full_size(heat: np.ndarray, size: int) -> np.ndarray:
    heat = np.clip(cv2.resize(np.float32(heat), (size, size), interpolation=cv2.INTER_CUBIC), 0, None)
    return heat / heat.max() if heat.max() > 0 else heat
