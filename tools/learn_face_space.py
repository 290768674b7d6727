"""Learns the statistical face space from which the embedded sample is drawn.

    python tools/learn_face_space.py /path/to/UTKFace [--output data/sample/face_space.npz]

Source: UTKFace (https://susanqq.github.io/UTKFace/), aligned 200x200 crops named AGE_GENDER_RACE_DATE. What is kept is a
mean face, the principal components of thousands of faces and one Gaussian per age group and gender; no photo is kept.
"""

import argparse
import os
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
from src.sample.face_model import EYES

NAME = re.compile(r"(\d+)_([01])_\d_\d+\.")
SIZE = 64
COMPONENTS = 120
POOLED = 0.15  # share of the covariance of all groups in each group's own, for the groups of few faces


def labelled(name: str) -> tuple[int, str] | None:
    """(age group, gender) of a UTKFace file name, or None where the name is malformed or the age is in no group."""
    match = NAME.match(name)
    if not match:
        return None
    age, years = int(match[1]), AGE_GROUPS["adience"].years
    group = next((i for i, (low, high) in enumerate(years) if low <= age <= high), None)
    # UTKFace counts 0 as male and 1 as female.
    return None if group is None else (group, GENDERS[1 - int(match[2])])


def aligned(picture: np.ndarray, detect, landmarks) -> np.ndarray | None:
    """The largest face turned level and scaled by its eyes.

    picture: uint8, (h, w, 3), RGB. Gives uint8, (64, 64, 4), RGB and what is face (0-255), or None where no face is found
    or it is turned away (components of turned heads make every drawn face a blur).
    """
    boxes = detect(picture, 0)
    if not boxes:
        return None
    shape = landmarks(picture, max(boxes, key=lambda box: box.area()))
    points = np.array([(p.x, p.y) for p in shape.parts()], float)
    left, right, nose = points[36:42].mean(0), points[42:48].mean(0), points[30]
    across = right - left
    if abs((nose - (left + right) / 2) @ across / (across @ across)) > 0.15:
        return None
    big = 3 * SIZE  # warped large, then averaged down: warpAffine alone would alias
    to_left, to_right = np.array(EYES) * big
    a = complex(*(to_right - to_left)) / complex(*across)
    turn = np.array([[a.real, -a.imag], [a.imag, a.real]])
    matrix = np.column_stack([turn, to_left - turn @ left])
    warped = cv2.warpAffine(picture, matrix, (big, big), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    points = points @ turn.T + matrix[:, 2]
    # Landmarks end at the brows; UTKFace's crops end a third of an eye distance above them.
    forehead = points[17:27] - (0, 0.33 * abs(a) * np.hypot(*across))
    mask = np.zeros((big, big, 1), np.uint8)
    cv2.fillConvexPoly(mask, cv2.convexHull(np.vstack([points[:27], forehead]).astype(np.int32)), 255)
    return cv2.resize(np.dstack([warped, mask]), (SIZE, SIZE), interpolation=cv2.INTER_AREA)


def align_files(paths: list[Path], landmark_file: Path) -> list[np.ndarray | None]:
    """`aligned` for each file; None too for grey photos, which would make the drawn faces colourless."""
    # dlib's objects do not pickle, so each worker makes its own.
    detect, landmarks = dlib.get_frontal_face_detector(), dlib.shape_predictor(str(landmark_file))
    faces = []
    for path in paths:
        picture = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
        grey = np.ptp(picture.astype(int), axis=2).mean() < 12
        faces.append(None if grey else aligned(picture, detect, landmarks))
    return faces


def learn(faces: np.ndarray, groups: np.ndarray, genders: np.ndarray) -> dict[str, np.ndarray]:
    """The arrays of the face space.

    faces: uint8, (n, 64, 64, 4), RGB and face mask; groups: int (n,), age group; genders: int (n,), index into GENDERS.
    """
    colours, masks = faces[..., :3].astype(np.float32), faces[..., 3:].astype(np.float32)
    # What lies outside the face is set to the mean, so that no component is spent on backgrounds.
    weights = np.stack([cv2.blur(mask, (3, 3)) for mask in masks])[..., None] / 255
    mean = (colours * weights).sum(0) / np.maximum(weights.sum(0), 1)
    mean = np.dstack([mean, masks.mean(0)])
    rows = np.concatenate([(colours - mean[..., :3]) * weights, masks - mean[..., 3:]], axis=-1).reshape(len(faces), -1)
    pca = PCA(COMPONENTS, whiten=True, svd_solver="randomized", random_state=SEED)
    whitened = pca.fit_transform(rows)
    components = pca.components_ * np.sqrt(pca.explained_variance_)[:, None]
    scales = np.abs(components).max(1) / 127
    means, factors = [], []
    cells = [whitened[(groups == g) & (genders == s)] for g in range(groups.max() + 1) for s in range(len(GENDERS))]
    pooled = np.mean([np.cov(cell.T) for cell in cells], axis=0)
    for cell in cells:
        covariance = (1 - POOLED) * LedoitWolf().fit(cell).covariance_ + POOLED * pooled
        means.append(cell.mean(0))
        factors.append(np.linalg.cholesky(covariance))
    by_cell = (groups.max() + 1, len(GENDERS), COMPONENTS)
    return {
        "mean": mean.astype(np.float16),
        "components": np.round(components / scales[:, None]).astype(np.int8),
        "scales": scales.astype(np.float32),
        "group_means": np.reshape(means, by_cell).astype(np.float16),
        "group_factors": np.reshape(factors, (*by_cell, COMPONENTS)).astype(np.float16),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="the folder of UTKFace's pictures")
    parser.add_argument("--output", type=Path, default=SAMPLE / "face_space.npz")
    parser.add_argument("--landmarks", type=Path, default=LANDMARK_FILE, help="dlib's 68-point file")
    arguments = parser.parse_args()
    paths = sorted(p for p in arguments.folder.iterdir() if p.suffix in IMAGE_SUFFIXES and labelled(p.name))
    chunks = [paths[i : i + 100] for i in range(0, len(paths), 100)]
    work = Parallel(n_jobs=2, return_as="generator")(delayed(align_files)(chunk, arguments.landmarks) for chunk in chunks)
    faces = [face for chunk in tqdm(work, total=len(chunks), desc="aligning, hundreds of faces") for face in chunk]
    known = [(face, labelled(path.name)) for face, path in zip(faces, paths, strict=True)]
    kept = [(face, *label) for face, label in known if face is not None and label is not None]
    pictures, groups, genders = zip(*kept, strict=True)
    space = learn(np.stack(pictures), np.array(groups), np.array([GENDERS.index(g) for g in genders]))
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    # Written whole or not at all: a killed run never leaves half a file under the real name.
    temporary = arguments.output.with_name(arguments.output.name + ".part")
    with open(temporary, "wb") as file:
        np.savez_compressed(file, **space)
    os.replace(temporary, arguments.output)
    print(f"{len(kept)} of {len(paths)} faces -> {arguments.output} ({arguments.output.stat().st_size / 1e6:.1f} MB)")


if __name__ == "__main__":
    main()
