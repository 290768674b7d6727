"""From photos to the table of predictions, in these steps:

1. `list_sources` lists and names the photos.
2. `extract_faces.detect_faces_in_photos` reads them, detects the faces and aligns them as the models' cards say.
3. `inference.predict_faces` runs the models on the aligned faces (`Models.probabilities`) and turns their probabilities into
   the columns of the table (`Models.to_rows`).
4. `annotate.annotate` draws the predictions on copies of the photos, on request.
"""

import io
import itertools
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pandas as pd
from PIL import Image
from tqdm.auto import tqdm

from src.config import MODELS, VIDEO_SUFFIXES
from src.faces.detect import DEFAULT_DETECTOR, Photo, require_detector
from src.faces.image_io import PhotoFile, list_photos, read_photo
from src.files import atomic_write, write_text
from src.predict.annotate import annotate as draw_predictions
from src.predict.extract_faces import Fallback, Source, Status, detect_faces_in_photos
from src.predict.inference import load_models, predict_faces

BATCH_PHOTOS = 32  # photos whose faces are predicted together; limits the memory
COPIES_LIST = ".annotated-copies.json"  # lists the files that this package wrote into a folder of annotated copies

PhotoSource: TypeAlias = PhotoFile | Photo  # a file, folder or pattern, or the content of a photo; see `Predictor.predict`


class Predictor:
    """Loads the models once and predicts gender and age for the faces in photos.

    Example:
        >>> predictor = Predictor()
        >>> table = predictor.predict(["family.jpg", "holiday/"])
        >>> table[["photo", "face", "gender", "age_years"]]
    """

    def __init__(
        self,
        gender_model: str | Path | None = MODELS / "gender",
        age_model: str | Path | None = MODELS / "age",
        fallback: str = Fallback.NONE,
        detector: str = DEFAULT_DETECTOR,
        workers: int = -1,
    ):
        """Loads the models.

        Args:
            gender_model: Model folder; None leaves the columns of gender empty.
            age_model: Model folder; None leaves the columns of age empty.
            fallback: For a photo without a detected face: "none", or "whole-photo" to treat its central square as a face.
            detector: The face detector; see `detect.detect`.
            workers: The number of worker processes for eight photos or more; -1: one per core.

        Raises:
            ValueError: The fallback or the detector is unknown, or `workers` is neither -1 nor positive.
            ModelFolderError: A model folder cannot be used; this is a ValueError too.
        """
        if workers != -1 and workers < 1:
            raise ValueError(f"workers must be -1, for one per core, or at least 1, got {workers}")
        if fallback not in tuple(Fallback):
            raise ValueError(f"fallback must be one of {', '.join(Fallback)}, got {fallback!r}")
        require_detector(detector)
        self.models = load_models(gender_model, age_model)
        self.fallback, self.detector, self.workers = fallback, detector, workers

    def predict(
        self, photos: PhotoSource | Iterable[PhotoSource], annotate: str | Path | None = None, progress: bool = True
    ) -> pd.DataFrame:
        """Predicts for one photo or several.

        Args:
            photos: A file, a folder (searched recursively, sorted), a pattern such as "*.jpg", the bytes of an image file,
                a PIL image, an array uint8 (height, width, 3), RGB, 0-255, or an iterable of any of these.
            annotate: Folder to write annotated copies into; None writes none. Only copies of an earlier call are replaced.
            progress: Whether to show a progress bar.

        Returns:
            The table of predictions: at least one row per photo, in the order given, and one row per face, largest first.
            A value that does not apply is NA. `docs/usage.md` describes the columns; their types are in
            `inference.PREDICTION_TYPES`.

        Raises:
            ValueError: An array is not uint8 RGB, a name is empty, or a copy would replace another file. A photo that
                cannot be read raises no error: its row states the problem.
        """
        sources = list_sources(photos, annotate)
        copies = reserve_copies([source.name for source in sources], Path(annotate)) if annotate is not None else None
        batches = list(self.batches(sources, copies, progress=progress))
        return pd.concat(batches, ignore_index=True) if batches else predict_faces([], self.models)

    def batches(
        self, sources: list[Source], copies: dict[Path, Path] | None = None, done: int = 0, progress: bool = True
    ) -> Iterator[pd.DataFrame]:
        """Predicts for many photos, a batch at a time.

        Args:
            sources: The photos; see `list_sources`.
            copies: Where to write annotated copies; see `reserve_copies`.
            done: The number of photos to skip at the beginning.
            progress: Whether to show a progress bar.

        Yields:
            The rows of whole photos, as `predict` returns them.
        """
        sources, total = sources[done:], len(sources)
        detected = detect_faces_in_photos(sources, self.models.alignments, self.fallback, self.detector, self.workers)
        with tqdm(total=total, initial=done, unit=" photos", desc="predicting", disable=not progress) as bar:
            for start in range(0, len(sources), BATCH_PHOTOS):
                batch = sources[start : start + BATCH_PHOTOS]
                rows = list(itertools.chain.from_iterable(itertools.islice(detected, len(batch))))
                table = predict_faces(rows, self.models)
                if copies:
                    _write_copies(batch, copies, table)
                yield table
                bar.update(len(batch))


def predict(
    photos: PhotoSource | Iterable[PhotoSource], *, annotate: str | Path | None = None, progress: bool = True, **options
) -> pd.DataFrame:
    """Runs `Predictor(**options).predict(photos, annotate, progress)` in one call."""
    return Predictor(**options).predict(photos, annotate, progress)


def list_sources(photos: PhotoSource | Iterable[PhotoSource], annotate: str | Path | None = None) -> list[Source]:
    """Lists and names the photos of `Predictor.predict`, with its arguments and errors.

    Folders and patterns exclude the annotated copies in the folder `annotate`.
    """
    # Among these, open files and dictionaries are no photos: `_check_photo` refuses them.
    if isinstance(photos, (str, Path, bytes, Image.Image, np.ndarray, io.IOBase, dict)) or not isinstance(photos, Iterable):
        photos = [photos]
    earlier_copies = set()
    if annotate is not None:
        earlier_copies = {Path(annotate, name).resolve() for name in _read_copies_list(Path(annotate))}
    sources: list[Source] = []
    for photo in photos:
        if isinstance(photo, (str, Path)):
            named = Path(os.path.expanduser(photo))  # a copy that the caller names is a photo like any other
            paths = [path for path in list_photos([photo]) if path == named or path.resolve() not in earlier_copies]
            sources += [Source(str(path), path) for path in paths]
        else:
            _check_photo(photo)
            sources.append(Source(f"photo-{len(sources) + 1}", photo))
    return sources


def _check_photo(photo: object) -> None:
    found = type(photo).__name__
    if isinstance(photo, np.ndarray):
        if photo.dtype == np.uint8 and photo.ndim == 3 and photo.shape[2] == 3 and photo.size:
            return
        found = f"{photo.dtype} {photo.shape}"
    elif isinstance(photo, (bytes, Image.Image)):
        return
    raise ValueError(f"a photo must be a path, bytes, a PIL image or an array uint8 (height, width, 3), RGB; got {found}")


def summarise(table: pd.DataFrame) -> str:
    """Summarises a table of predictions in sentences: how many faces, which photos without a face, which unreadable."""
    advice = "A larger, frontal and well-lit face is easier to detect."
    if table["status"].tolist() == [Status.NO_FACE]:
        return f"No face was found. {advice}"
    faces, photos = table[table["status"] == Status.OK], table["photo"].nunique()
    found = "1 face was found" if len(faces) == 1 else f"{len(faces)} faces were found"
    lines = [f"{found}." if photos == 1 else f"{found} in {faces['photo'].nunique()} of {photos} photos."]
    for row in table.assign(name=table["photo"].str.split(r"[\\/]").str[-1]).itertuples():
        if row.status == Status.NO_FACE:
            lines.append(f"{row.name}: no face was found. {advice}")
        elif row.status == Status.UNREADABLE:
            lines.append(f"{row.name} could not be read: {row.message}.")
    return "\n".join(lines)


def reserve_copies(names: Iterable[str], folder: Path) -> dict[Path, Path]:
    """Chooses the file names of annotated copies in a folder, and writes them to `.annotated-copies.json` there.

    This list allows a later call to replace these copies and the tables of videos, but no other file.

    Args:
        names: The photos or videos.
        folder: The folder for the copies; it is created.

    Returns:
        The copy's path by the original's path.

    Raises:
        ValueError: The folder is a file, or a copy would replace a file that no earlier call has written.
        OSError: The folder cannot be created or written.
    """
    paths = dict.fromkeys(map(Path, names))
    originals, earlier = {path.resolve() for path in paths}, _read_copies_list(folder)
    listed = set(earlier)
    used_names: set[str] = set()  # in lower case, because some file systems do not distinguish A.jpg from a.jpg
    copies = {}
    for path in paths:
        keeps_suffix = path.suffix.lower() in (".jpg", ".jpeg", ".png")
        suffix = ".mp4" if is_video(path) else path.suffix if keeps_suffix else path.suffix + ".jpg"
        candidates = (f"{path.stem}{'' if number == 1 else f'-{number}'}{suffix}" for number in itertools.count(1))
        copy = folder / next(name for name in candidates if name.lower() not in used_names)
        tables = [copy.with_name(f"{copy.stem}-{table}.csv") for table in ("frames", "people")] if is_video(path) else []
        for file in (copy, *tables):
            if file.resolve() in originals or (file.exists() and file.name not in earlier):
                raise ValueError(f"an annotated copy must not replace {file}: choose another folder than {folder}")
            listed.add(file.name)
        used_names.add(copy.name.lower())
        copies[path] = copy
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"annotated copies need a folder, but {folder} is a file: choose another name")
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / COPIES_LIST, json.dumps(sorted(listed)))
    return copies


def _read_copies_list(folder: Path) -> set[str]:
    """Returns the names of the files that earlier calls have written into a folder; see `reserve_copies`."""
    try:
        return set(json.loads((folder / COPIES_LIST).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return set()


def _write_copies(sources: list[Source], copies: dict[Path, Path], table: pd.DataFrame) -> None:
    """Draws the predictions on copies of the photos; if one cannot be written, the photo's message says so."""
    readable = table[table["status"] != Status.UNREADABLE]
    photos = dict(sources)
    for name, rows in readable.groupby("photo", sort=False):
        photo = photos[name]
        try:
            with atomic_write(copies[Path(name)]) as new:
                pixels = photo if isinstance(photo, np.ndarray) else read_photo(photo)
                Image.fromarray(draw_predictions(pixels, rows)).save(new, quality=92)
        except (OSError, ValueError) as error:  # keep the predictions
            reason = f"no annotated copy could be written ({getattr(error, 'strerror', None) or error})"
            table.loc[rows.index, "message"] = (rows["message"] + "; ").fillna("") + reason


def is_video(name: str | Path) -> bool:
    """Returns whether a file's name ends as a video's does."""
    return Path(name).suffix.lower() in VIDEO_SUFFIXES
