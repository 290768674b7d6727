"""Learns the statistical face model from which the embedded sample is drawn.

    python tools/learn_face_model.py /path/to/UTKFace [--output data/sample/face_model.npz]

Source: UTKFace (https://susanqq.github.io/UTKFace/), aligned 200x200 crops named AGE_GENDER_RACE_DATE. The method is the
active appearance model of Cootes, Edwards and Taylor ("Active appearance models", ECCV 1998). The file contains means and
principal components over thousands of faces, but no photo.
"""

import argparse
import re
from pathlib import Path

import cv2
import dlib
import numpy as np
from joblib import Parallel, delayed
from sklearn.covariance import LedoitWolf
from sklearn.decomposition import PCA
from tqdm import tqdm

from src.config import AGE_GROUPS, GENDERS, IMAGE_SUFFIXES, LANDMARK_FILE, SAMPLE, SEED
from src.files import atomic_write
from src.sample.face_model import EYE_POSITIONS, TEXTURE_SIZE, face_mask, warp

NAME = re.compile(r"(\d+)_([01])_\d_\d+\.")
COMPONENTS = 100
PER_CELL = 600  # largest number of faces of one age group and gender, so that no cell dominates the components
POOLED = 0.15  # weight of the covariance of all cells in that of each cell, because some cells have few faces
# The landmark at the mirrored place of each of dlib's 68.
MIRRORED = [
    *range(16, -1, -1), *range(26, 16, -1), *range(27, 31), *range(35, 30, -1), 45, 44, 43, 42, 47, 46,
    39, 38, 37, 36, 41, 40, *range(54, 47, -1), *range(59, 54, -1), *range(64, 59, -1), *range(67, 64, -1),
]  # fmt: skip


def parse_label(name: str) -> tuple[int, int] | None:
    """Returns (age group, index into GENDERS) of a UTKFace file name; None if it is malformed or its age is in no group."""
    match = NAME.match(name)
    if not match:
        return None
    age, years = int(match[1]), AGE_GROUPS["adience"].years
    group = next((i for i, (low, high) in enumerate(years) if low <= age <= high), None)
    # UTKFace codes male as 0 and female as 1.
    return None if group is None else (group, 1 - int(match[2]))


def landmarks_of_files(paths: list[Path], landmark_file: Path) -> list[np.ndarray | None]:
    """Returns the landmarks of each file's largest face, float (68, 2) in pixels.

    The result is None for files without a face, for turned heads (they blur the synthetic faces) and for grayscale photos.
    """
    # dlib's objects cannot be pickled, so each worker creates its own.
    detector, predictor = dlib.get_frontal_face_detector(), dlib.shape_predictor(str(landmark_file))
    found: list[np.ndarray | None] = []
    for path in paths:
        image = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
        boxes = detector(image, 0)
        found.append(None)
        if boxes and np.ptp(image.astype(int), axis=2).mean() >= 12:
            shape = predictor(image, max(boxes, key=lambda box: box.area()))
            points = np.array([(point.x, point.y) for point in shape.parts()], float)
            left, right, nose = points[36:42].mean(0), points[42:48].mean(0), points[27:31].mean(0)
            across = right - left
            if abs((nose - (left + right) / 2) @ across / (across @ across)) < 0.09:
                found[-1] = points
    return found


def normalise_shape(points: np.ndarray) -> np.ndarray:
    """Moves the eye centres to `EYE_POSITIONS` by a similarity transform and makes the face symmetric; float (68, 2), 0-1."""
    left, right = points[36:42].mean(0), points[42:48].mean(0)
    turn = complex(EYE_POSITIONS[1][0] - EYE_POSITIONS[0][0], 0) / complex(*(right - left))
    matrix = np.array([[turn.real, -turn.imag], [turn.imag, turn.real]])
    shape = (points - left) @ matrix.T + EYE_POSITIONS[0]
    return (shape + (1, 0) + shape[MIRRORED] * (-1, 1)) / 2


def sample_textures(paths: list[Path], landmarks: list[np.ndarray], mean_shape: np.ndarray) -> list[np.ndarray]:
    """Warps each face to the mean shape and averages it with its mirror image; uint8 (size, size // 2, 3) RGB each."""
    textures = []
    for path, points in zip(paths, landmarks, strict=True):
        image = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
        # Warped large, then averaged down: remapping alone would alias.
        large = warp(image, mean_shape, points, 2 * TEXTURE_SIZE)
        face = cv2.resize(large, (TEXTURE_SIZE, TEXTURE_SIZE), interpolation=cv2.INTER_AREA).astype(np.float32)
        half = (face + face[:, ::-1])[:, : TEXTURE_SIZE // 2] / 2
        textures.append(half.round().astype(np.uint8))
    return textures


def balance_colours(textures: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Removes colour casts: sets each face to the usual chromaticity for its brightness. float32 (n, h, w, 3)."""
    means = (textures * weights).sum((1, 2)) / weights.sum((0, 1))
    luminance = means.mean(1)
    chroma = means / luminance[:, None]
    usual = np.column_stack([np.polyval(np.polyfit(luminance, chroma[:, i], 2), luminance) for i in range(3)])
    return textures * (usual / chroma)[:, None, None].astype(np.float32)


def learn(textures: np.ndarray, shapes: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the arrays of the model.

    Args:
        textures: uint8 (n, TEXTURE_SIZE, TEXTURE_SIZE // 2, 3) RGB, the left halves of the faces in the mean shape.
        shapes: float (n, 68, 2), normalised landmarks.
        labels: int (n, 2), age group and gender.
    """
    mean_shape = shapes.mean(0)
    # More forehead is learnt than drawn, so that the edge of what is learnt does not show.
    weights = face_mask(mean_shape, forehead=0.4)[:, : TEXTURE_SIZE // 2, None]
    colours = balance_colours(textures.astype(np.float32), weights)
    mean = colours.mean(0)
    colours = ((colours - mean) * weights).reshape(len(colours), -1)
    moves = (shapes - mean_shape).reshape(len(shapes), -1).astype(np.float32)
    # Shape and texture get the same total variance.
    moves *= np.sqrt(colours.var(0).sum() / moves.var(0).sum())
    pca = PCA(COMPONENTS, whiten=True, svd_solver="randomized", random_state=SEED)
    whitened = pca.fit_transform(np.hstack([colours, moves]))
    components = pca.components_ * np.sqrt(pca.explained_variance_)[:, None]
    ratio = np.sqrt((shapes - mean_shape).var(0).sum() / moves.var(0).sum())
    textures_part, shapes_part = components[:, : colours.shape[1]], components[:, colours.shape[1] :] * ratio
    scales = np.abs(textures_part).max(1) / 127
    cells = [
        whitened[(labels == (group, gender)).all(1)]
        for group in range(len(AGE_GROUPS["adience"].years))
        for gender in range(len(GENDERS))
    ]
    pooled = np.mean([np.cov(cell.T) for cell in cells], axis=0)
    factors = [np.linalg.cholesky((1 - POOLED) * LedoitWolf().fit(cell).covariance_ + POOLED * pooled) for cell in cells]
    by_cell = (len(cells) // len(GENDERS), len(GENDERS), COMPONENTS)
    return {
        "mean_texture": mean.astype(np.float16),
        "textures": np.round(textures_part / scales[:, None]).astype(np.int8),
        "scales": scales.astype(np.float32),
        "mean_shape": mean_shape.astype(np.float32),
        "shapes": shapes_part.astype(np.float16),
        "group_means": np.reshape([cell.mean(0) for cell in cells], by_cell).astype(np.float16),
        "group_factors": np.reshape(factors, (*by_cell, COMPONENTS)).astype(np.float16),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="the folder with UTKFace's images")
    parser.add_argument("--output", type=Path, default=SAMPLE / "face_model.npz")
    parser.add_argument("--landmarks", type=Path, default=LANDMARK_FILE, help="dlib's 68-point file")
    arguments = parser.parse_args()
    by_cell: dict[tuple[int, int], list[Path]] = {}
    for path in sorted(arguments.folder.iterdir()):
        label = parse_label(path.name)
        if path.suffix in IMAGE_SUFFIXES and label:
            by_cell.setdefault(label, []).append(path)
    rng = np.random.default_rng(SEED)
    chosen = [(path, label) for label, paths in by_cell.items() for path in rng.permutation(paths)[:PER_CELL]]

    def in_chunks(function, *columns, shared):
        chunks = [[column[i : i + 100] for column in columns] for i in range(0, len(columns[0]), 100)]
        work = Parallel(n_jobs=-1, return_as="generator")(delayed(function)(*chunk, shared) for chunk in chunks)
        return [one for chunk in tqdm(work, total=len(chunks), desc=function.__name__) for one in chunk]

    found = in_chunks(landmarks_of_files, [path for path, _ in chosen], shared=arguments.landmarks)
    kept = [(*one, points) for one, points in zip(chosen, found, strict=True) if points is not None]
    paths, labels, landmarks = zip(*kept, strict=True)
    shapes = np.stack([normalise_shape(points) for points in landmarks])
    textures = np.stack(in_chunks(sample_textures, paths, landmarks, shared=shapes.mean(0)))
    with atomic_write(arguments.output) as path:
        np.savez_compressed(path, **learn(textures, shapes, np.array(labels)))
    print(f"{len(kept)} of {len(chosen)} faces -> {arguments.output} ({arguments.output.stat().st_size / 1e6:.1f} MB)")


if __name__ == "__main__":
    main()
