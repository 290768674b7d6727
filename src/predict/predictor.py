"""Photos to the table of predictions: finds the faces, aligns them as the models' cards say, and runs the models.

It shares `detect` and `faces` with `prepare`, so that new photos are treated exactly as the training faces were.

Before it: `looking` and `answers`. After it: `video`, `predict` (the command), `demo` and notebooks 3 and 4.
"""

import io
import itertools
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image
from tqdm.auto import tqdm

from src.config import MODELS, VIDEO_SUFFIXES
from src.faces.detect import DEFAULT_DETECTOR, require_detector
from src.faces.image_io import PhotoFile, list_photos, read_photo
from src.files import atomic_write, write_text
from src.predict import detection
from src.predict.annotate import annotate as draw_answers
from src.predict.decode import add_message, add_predictions, load_models, to_table
from src.predict.detection import Source

FALLBACKS = ("none", "whole-photo")
FEW = 8  # photos: fewer are done before other processes have started
TOGETHER = 32  # photos whose faces are predicted together; bounds the memory
COPIES = ".annotated-copies.json"  # in a folder of annotated copies: their names


Picture: TypeAlias = PhotoFile | npt.NDArray[np.uint8]  # one photo; see `Predictor.predict`


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
        fallback: str = "none",
        detector: str = DEFAULT_DETECTOR,
        workers: int = -1,
    ):
        """Loads the models.

        Args:
            gender_model: Model folder; None leaves the columns of gender empty.
            age_model: Model folder; None leaves the columns of age empty.
            fallback: What happens to a photo without a face: "none", or "whole-photo" to treat its central square as a face.
            detector: What finds the faces; see `detect.detect`.
            workers: Processes for eight photos or more, -1 for one per core. A process that may not start others, such as a
                worker of `multiprocessing.Pool` or Celery, does the work itself.

        Raises:
            ValueError: For an unknown fallback or detector, or a number of workers that is neither -1 nor positive.
            ModelFolderError: For a model folder that cannot be used; it is a ValueError too.
        """
        if workers != -1 and workers < 1:
            raise ValueError(f"workers must be -1, for one per core, or at least 1, got {workers}")
        if fallback not in FALLBACKS:
            raise ValueError(f"fallback must be one of {', '.join(FALLBACKS)}, got {fallback!r}")
        require_detector(detector)
        self.models = load_models(gender_model, age_model)
        self.fallback, self.detector, self.workers = fallback, detector, workers

    def predict(
        self, photos: Picture | Iterable[Picture], annotate: str | Path | None = None, progress: bool = True
    ) -> pd.DataFrame:
        """Predicts for one photo or several.

        Args:
            photos: A file, a folder (searched recursively, sorted), a pattern such as "*.jpg", the bytes of a picture file,
                a PIL image, an array uint8 (height, width, 3), RGB, 0-255, or an iterable of any of these.
            annotate: A folder for annotated copies (see `annotate`; a copy with a legend is larger than its photo). The
                photos are never changed, and only the copies of an earlier call are replaced.
            progress: Whether to show a progress bar.

        Returns:
            The table of predictions: at least one row per photo, in the order given; several faces largest first. What does
            not apply is NA. Columns:

            - `photo`: the path as given, or "photo-N" for the N-th photo if it has no path
            - `status`: "ok", "no_face", "whole_photo" (the fallback was used) or "unreadable"
            - `face`: 1, 2, … within the photo; `left, top, right, bottom`: its box in pixels of the upright photo;
              `detection_score`: see `detect.Detection`
            - `gender`: "female" or "male"; `p_male`: 0-1
            - `age_group`, `age_group_probability` (0-1), `age_years`
            - `message`: a text for people: why there is no prediction, or which ones are uncertain
            - `age_interval_low`, `age_interval_high`: the 90% prediction interval of the age in whole years, inclusive,
              if the age model predicts single years and its card holds the quantiles
            - `gender_unsure`, `age_unsure`: whether the probability is below the limit in the model's card

        Raises:
            ValueError: For an array of another type or shape, an empty name, or a copy that would replace another file. A bad
                photo raises nothing: its row says what is wrong.
        """
        sources = list_sources(photos, annotate)
        copies = name_outputs([Path(name) for name, _ in sources], Path(annotate)) if annotate is not None else None
        return to_table(itertools.chain.from_iterable(self.batches(sources, copies, progress=progress)))

    def batches(
        self,
        sources: list[Source],
        copies: dict[Path, Path] | None = None,
        done: int = 0,
        progress: bool = True,
    ) -> Iterator[list[dict]]:
        """Yields the rows of predictions, a batch of whole photos at a time.

        Args:
            sources: The photos.
            copies: Where to write annotated copies, by the photo's name (see `targets`).
            done: The number of photos to skip at the beginning.
            progress: Whether to show a progress bar.
        """
        left = sources[done:]
        workers = self.workers if len(left) >= FEW else 1
        looked = detection.detect_faces_in_photos(left, self.models.alignments, self.fallback, self.detector, workers)
        counts = {"total": len(sources), "initial": done}
        with tqdm(**counts, unit=" photos", desc="predicting", disable=not progress) as bar:
            for start in range(0, len(left), TOGETHER):
                some = left[start : start + TOGETHER]
                rows = list(itertools.chain.from_iterable(itertools.islice(looked, len(some))))
                rows = add_predictions(rows, self.models)
                if copies:
                    _annotate(some, copies, rows)
                yield rows
                bar.update(len(some))


def predict(
    photos: Picture | Iterable[Picture],
    gender_model: str | Path | None = MODELS / "gender",
    age_model: str | Path | None = MODELS / "age",
    fallback: str = "none",
    annotate: str | Path | None = None,
    progress: bool = True,
    detector: str = DEFAULT_DETECTOR,
    workers: int = -1,
) -> pd.DataFrame:
    """`Predictor(...).predict(photos)` in one call, with the arguments and errors of both."""
    return Predictor(gender_model, age_model, fallback, detector, workers).predict(photos, annotate, progress)


def list_sources(photos: Picture | Iterable[Picture], annotate: str | Path | None) -> list[Source]:
    """Each photo's name and where its pixels come from."""
    if isinstance(photos, (str, Path, bytes, Image.Image, np.ndarray)):
        photos = [photos]
    # An open file is iterable too, by lines, and a dict by its keys.
    elif not isinstance(photos, Iterable) or isinstance(photos, (io.IOBase, Mapping)):
        _checked(photos)
    given = list(photos)
    drawn = {Path(annotate, name).resolve() for name in drawn_copies(Path(annotate))} if annotate is not None else set()
    named = {Path(os.path.expanduser(place)) for place in given if isinstance(place, (str, Path))}
    sources: list[Source] = []
    for place in given:
        if isinstance(place, (str, Path)):
            paths = list_photos([place])
            # A copy that an earlier call has drawn is no photo, unless it is named itself.
            sources += [
                Source(str(path), path) for path in paths if not drawn or path in named or path.resolve() not in drawn
            ]
        else:
            sources.append(Source(f"photo-{len(sources) + 1}", _checked(place)))
    return sources


def _checked(photo: Picture) -> Picture:
    """A photo in memory; ValueError for what is none."""
    got = type(photo).__name__
    if isinstance(photo, (bytes, Image.Image)):
        return photo
    if isinstance(photo, np.ndarray):
        if photo.dtype == np.uint8 and photo.ndim == 3 and photo.shape[2] == 3 and photo.size:
            return photo
        got = f"{photo.dtype} {photo.shape}"
    raise ValueError(f"a photo must be a path, bytes, a PIL image or an array uint8 (height, width, 3), RGB; got {got}")


def summarise(table: pd.DataFrame) -> str:
    """A table of predictions in a few sentences: how many faces were found, where none, and what could not be read."""
    faces = table[table["status"] == "ok"]
    said = [f"{len(faces)} {'face was' if len(faces) == 1 else 'faces were'} found in {faces['photo'].nunique()} of "
            f"{table['photo'].nunique()} photos."]  # fmt: skip
    named = table["photo"].str.split(r"[\\/]").str[-1]
    for name in named[table["status"] == "no_face"]:
        said.append(f"{name}: no face was found. One that is larger, from the front and well lit is easier to find.")
    for name, why in zip(named, table["message"].where(table["status"] == "unreadable")):
        said += [f"{name}: could not be read: {why}."] if pd.notna(why) else []
    return "\n".join(said)


def name_outputs(paths: list[Path], folder: Path) -> dict[Path, Path]:
    """Where the annotated copy of each photo or video goes; those of the same name get a number.

    The folder is made, and a hidden file in it tells which names are copies, or a video's tables. ValueError where one would
    replace any file that is not of an earlier call.
    """
    originals = {path.resolve() for path in paths}
    earlier = drawn_copies(folder)
    written = set(earlier)
    taken: set[str] = set()  # in small letters: some file systems can't tell A.jpg from a.jpg
    chosen = {}
    for path in dict.fromkeys(paths):
        names = (_copy_name(path, number) for number in itertools.count(1))
        target = folder / next(name for name in names if name.casefold() not in taken)
        made = [target, *(target.with_name(f"{target.stem}-{name}.csv") for name in ("frames", "people") if is_video(path))]
        for file in made:
            if file.resolve() in originals or (file.exists() and file.name not in earlier):
                raise ValueError(f"an annotated copy must not replace {file}: name another folder than {folder}")
        written.update(file.name for file in made)
        taken.add(target.name.casefold())
        chosen[path] = target
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise ValueError(f"annotated copies need a folder, and {folder} is or leads through a file: name another") from error
    write_text(folder / COPIES, json.dumps(sorted(written)))
    return chosen


def drawn_copies(folder: Path) -> set[str]:
    """The names of the annotated copies in a folder."""
    try:
        return set(json.loads((folder / COPIES).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return set()


def _copy_name(path: Path, number: int) -> str:
    stem = path.stem if number == 1 else f"{path.stem}-{number}"
    if is_video(path):
        return f"{stem}.mp4"
    return stem + path.suffix + ("" if path.suffix.lower() in (".jpg", ".jpeg", ".png") else ".jpg")


def _annotate(sources: list[Source], copies: dict[Path, Path], rows: list[dict]) -> None:
    table = to_table(rows)
    for name, photo in {source.name: source for source in sources}.values():
        mine = table[table["photo"] == name]
        if (mine["status"] == "unreadable").any():
            continue
        try:
            with atomic_write(copies[Path(name)]) as new:
                pixels = photo if isinstance(photo, np.ndarray) else read_photo(photo)
                Image.fromarray(draw_answers(pixels, mine)).save(new, quality=92)
        except (OSError, ValueError) as error:  # the predictions are worth more than the picture of them
            why = getattr(error, "strerror", None) or error
            for row in rows:
                if row["photo"] == name:
                    add_message(row, f"no annotated copy could be written ({why})")


def is_video(name: str | Path) -> bool:
    return Path(name).suffix.lower() in VIDEO_SUFFIXES
