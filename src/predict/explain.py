"""Explains the prediction for an aligned face by heat maps and by changed copies of it.

Grad-CAM uses the network's gradients, occlusion only its probabilities, so the two check each other. This module imports
Keras, which takes seconds.
"""

import itertools
from dataclasses import replace
from typing import NamedTuple

import cv2
import matplotlib
import numpy as np
import numpy.typing as npt

from src.evaluation.metrics import decode
from src.faces.align import Alignment, Face, align_face
from src.keras_setup import keras, ops
from src.models.model_folder import TrainedModel
from src.predict.inference import to_reported_classes

TINY = np.finfo(np.float32).tiny
HIDDEN_SHARE, HIDDEN_VALUE = 0.2, 128  # side (a share of the face's) and value of the square that hides a part of the face
HIDDEN_STEPS = 14  # number of squares along each side
OCCLUSION_BATCH = 32  # partly hidden faces that are predicted together
ROUNDING = 1e-5  # falls of the log odds below this come from rounding in float32


class OcclusionResult(NamedTuple):
    """What `occlusion` finds."""

    heat: npt.NDArray[np.float32]  # (size, size), 0-1; 1 is where the log odds of the classes fall most
    probability: float  # of the classes if nothing is hidden
    lowest: float  # of the classes if the most important place is hidden


def predicted_class(trained: TrainedModel, face: npt.NDArray[np.uint8]) -> tuple[str, list[int]]:
    """Predicts the gender or age group of an aligned face, uint8 (size, size, 3), RGB, 0-255.

    Returns its name, and the indices of the model's classes that belong to it, for example the years of an age group.
    """
    names, probability = to_reported_classes(np.asarray(trained.model(face[None], training=False)), trained.labels)
    predicted = decode(probability, ordered=trained.labels.task == "age")[0]
    _, belongs = to_reported_classes(np.eye(len(trained.labels.classes)), trained.labels)
    return names[predicted], np.flatnonzero(belongs[:, predicted]).tolist()


def grad_cam(model: keras.Model, face: npt.NDArray[np.uint8], classes: list[int]) -> npt.NDArray[np.float32]:
    """Computes where level one's last convolution supports the classes.

    Source: Selvaraju et al., "Grad-CAM: visual explanations from deep networks via gradient-based localization", ICCV 2017.

    Args:
        model: A two-level network. If its level one sees the face and its mirror image, the map is the sum of both.
        face: The aligned face, uint8 (size, size, 3), RGB, 0-255.
        classes: Indices of the model's classes whose probabilities are added; see `predicted_class`.

    Returns:
        The heat map, (size, size), 0-1; 1 is the strongest support.

    Raises:
        ValueError: Keras's backend is not TensorFlow, which computes the gradients.
    """
    if keras.backend.backend() != "tensorflow":
        raise ValueError(f"Grad-CAM requires Keras's TensorFlow backend, got {keras.backend.backend()}")
    import tensorflow as tf

    level_one, level_two = model.get_layer("level_one"), model.get_layer("level_two")
    # A level one by `experiments.training_steps.mirrored_level_one` contains the network that sees both images.
    shared = next((layer for layer in level_one.layers if isinstance(layer, keras.Model)), level_one)
    mirrored = shared is not level_one
    views = [face, face[:, ::-1]] if mirrored else [face]
    maps_and_features = keras.Model(shared.inputs, [_last_feature_map(shared), shared.output])
    with tf.GradientTape() as tape:
        maps, features = maps_and_features([np.stack(views)], training=False)
        score = _log_odds(level_two, ops.mean(features, axis=0, keepdims=True), classes)
    gradients = np.asarray(tape.gradient(score, maps), np.float32)
    heat = np.maximum((np.asarray(maps) * gradients.mean(axis=(1, 2), keepdims=True)).sum(axis=-1), 0)
    return _full_size(heat[0] + heat[1][:, ::-1] if mirrored else heat[0], face.shape[0])


def occlusion(model: keras.Model, face: npt.NDArray[np.uint8], classes: list[int]) -> OcclusionResult:
    """Computes how far the log odds of the classes fall if a grey square hides a part of the face.

    Log odds show what probabilities near 1 hide: these hardly move even if the network has far less support for the classes.

    Source: Zeiler and Fergus, "Visualizing and understanding convolutional networks", ECCV 2014.

    Args:
        model: A network from faces to probabilities.
        face: The aligned face, uint8 (size, size, 3), RGB, 0-255.
        classes: As for `grad_cam`.
    """
    size = face.shape[0]
    side = round(HIDDEN_SHARE * size)
    starts = np.round((np.arange(HIDDEN_STEPS) + 0.5) / HIDDEN_STEPS * size - side / 2).astype(int)
    hidden = np.repeat(face[None], HIDDEN_STEPS**2, axis=0)
    for image, (top, left) in zip(hidden, itertools.product(starts, starts)):
        image[max(0, top) : top + side, max(0, left) : left + side] = HIDDEN_VALUE
    batches = [face[None], *np.array_split(hidden, -(-len(hidden) // OCCLUSION_BATCH))]
    probability = np.concatenate([np.asarray(model(batch, training=False), float) for batch in batches])
    chosen = probability[:, classes].sum(axis=1)
    # The sum over the other classes is exact near 0, where 1 - chosen is rounded. `TINY` avoids the logarithm of zero.
    others = np.delete(probability, classes, axis=1).sum(axis=1)
    log_odds = np.log(np.maximum(chosen, TINY)) - np.log(np.maximum(others, TINY))
    falls = log_odds[0] - log_odds[1:]
    falls[falls < ROUNDING] = 0
    heat = _full_size(falls.reshape(HIDDEN_STEPS, HIDDEN_STEPS), size)
    return OcclusionResult(heat, float(chosen[0]), float(chosen[1:].min()))


def overlay(face: npt.NDArray[np.uint8], heat: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Draws a heat map, (size, size), 0-1, over a face, uint8 (size, size, 3), RGB; returns the same shape and type."""
    colours = matplotlib.colormaps["inferno"](heat)[..., :3] * 255
    grey = np.repeat(cv2.cvtColor(face, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)
    opacity = 0.15 + 0.6 * heat[..., None]
    return np.uint8(np.round(grey * (1 - opacity) + colours * opacity))


def variants(photo: npt.NDArray[np.uint8], face: Face, alignment: Alignment) -> dict[str, npt.NDArray[np.uint8]]:
    """Aligns a face in a photo, uint8 (height, width, 3), RGB, and changes it in ways that should not matter.

    Returns:
        The faces by the name of the change, uint8 (size, size, 3), RGB; "as it is" comes first.
    """
    aligned = align_face(photo, face, alignment)
    return {
        "as it is": aligned,
        "flipped": np.ascontiguousarray(aligned[:, ::-1]),
        "blurred": cv2.GaussianBlur(aligned, (0, 0), alignment.size / 64),
        "brighter": np.uint8(np.clip(aligned * 1.4, 0, 255)),
        "darker": np.uint8(aligned * 0.6),
        "tighter": align_face(photo, face, _zoom(alignment, 1.15)),
        "wider": align_face(photo, face, _zoom(alignment, 0.85)),
    }


def _zoom(alignment: Alignment, factor: float) -> Alignment:
    """Returns the alignment enlarged about the middle of the face."""
    eye_height = 0.5 + (alignment.eye_height - 0.5) * factor
    return replace(alignment, eye_distance=alignment.eye_distance * factor, eye_height=eye_height)


def _log_odds(level_two: keras.Model, features, classes: list[int]):
    """Returns the log odds of the classes, from the logits: probabilities near 1 have almost no gradient."""
    last = level_two.layers[-1]
    features = keras.Model(level_two.inputs, last.input)([features], training=False)
    logits = (ops.matmul(ops.cast(features, "float32"), last.kernel) + last.bias)[0]
    others = np.setdiff1d(np.arange(logits.shape[0]), classes)
    return ops.logsumexp(ops.take(logits, np.array(classes))) - ops.logsumexp(ops.take(logits, others))


def _last_feature_map(network: keras.Model):
    """Returns the last map of the last convolution's height and width: the one after its activation and shortcut."""
    size = [layer for layer in network.layers if isinstance(layer, keras.layers.Conv2D)][-1].output.shape[1:3]
    outputs = [layer.output for layer in network.layers if not isinstance(layer.output, (list, tuple))]
    return [output for output in outputs if len(output.shape) == 4 and output.shape[1:3] == size][-1]


def _full_size(heat: np.ndarray, size: int) -> npt.NDArray[np.float32]:
    heat = np.clip(cv2.resize(np.float32(heat), (size, size), interpolation=cv2.INTER_CUBIC), 0, None)
    return heat / heat.max() if heat.max() > 0 else heat
