"""How fast the metadata of IMDB-WIKI becomes a clean table, against a plain loop over its records, and in how much memory.

    python benchmarks/cleaning.py /path/to/folder/with/wiki.mat [--records 460723] [--hashes 523051] [--csv FILE]

An imdb.mat of true size and structure is made beside a link to the real wiki.mat, in a folder that is thrown away; it draws
its dates, scores and boxes from wiki.mat's records and has as many celebrities as the real one, 20,284. Reading the files
with scipy.io.loadmat is timed apart. Both ways must give the same table. The search for near-duplicates is timed on hashes
half of which are drawn bit by bit and half of which are a few bits away from others. One core.
"""

import argparse
import datetime as dt
import re
import sys
import tempfile
import time
import unicodedata
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.io import loadmat, savemat

from src.config import SEED
from src.data import imdb_wiki, label_files
from src.data.table import TABLE_COLUMNS
from src.faces.duplicates import group_similar_hashes

IMDB, WIKI, CELEBRITIES = 460_723, 62_328, 20_284
FEW = 10_000  # of each part's records for the loop over a DataFrame's rows


def make_imdb(file: Path, wiki: Path, count: int = IMDB, seed: int = SEED) -> None:
    """Writes an imdb.mat of `count` records with the struct of the real one, its values drawn from wiki.mat's."""
    rng = np.random.default_rng(seed)
    real = loadmat(wiki)["wiki"].flat[0]
    drawn = rng.integers(real["dob"].size, size=count)
    field = {name: real[name].ravel()[drawn] for name in imdb_wiki.NUMBERS}
    celeb = np.sort(rng.integers(min(CELEBRITIES, -(-count // 3)), size=count))
    names = [
        f"Søren Person {number:05d}" if number % 9 == 0 else f"Some Person {number:05d}" for number in range(CELEBRITIES)
    ]
    births = [_text(path).split("_")[1] for path in real["full_path"].ravel()[drawn]]
    paths = [
        f"{c % 100:02d}/nm{c:07d}_rm{i:09d}_{birth}_{year}.jpg"
        for i, (c, birth, year) in enumerate(zip(celeb, births, field["photo_taken"]))
    ]
    struct = {name: values[None] for name, values in field.items()}
    struct["full_path"] = _cells([np.array([path]) for path in paths])
    struct["name"] = _cells([np.array([names[c]]) for c in celeb])
    struct["face_location"] = _cells(list(real["face_location"].ravel()[drawn]))
    struct["celeb_names"] = _cells([np.array([name]) for name in names])
    struct["celeb_id"] = celeb[None] + 1.0
    savemat(file, {"imdb": struct}, do_compression=True)


def _text(cell: np.ndarray) -> str:
    return cell.item(0) if cell.size else ""


def _cells(values: list) -> np.ndarray:
    cells = np.empty((1, len(values)), object)
    cells[0] = np.fromiter(values, object, len(values))
    return cells


FIELDS = (*imdb_wiki.NUMBERS, "full_path", "name", "face_location")


def from_structs(contents: dict):
    """Each record's values, looked up in the struct one by one. contents: part -> what loadmat gave."""
    for part, content in contents.items():
        struct = content[part][0, 0]
        for i in range(struct["dob"].size):
            yield part, *(struct[name][0, i] for name in FIELDS)


def from_frame(contents: dict, most: int):
    """The values of each part's first `most` records, from the rows of a DataFrame."""
    for part, content in contents.items():
        struct = content[part][0, 0]
        frame = pd.DataFrame({name: pd.Series(list(struct[name][0, :most])) for name in FIELDS})
        for _, row in frame.iterrows():
            yield part, *(row[name] for name in FIELDS)


def by_record(records) -> tuple[pd.DataFrame, pd.DataFrame]:
    """What `imdb_wiki.load` gives without pictures, by a plain loop: one record after another, one value after another.

    It knows no namesakes under one celeb_id, of which the files here have none.
    """
    birth, outside = re.compile(imdb_wiki.BIRTH_DATE), re.compile(label_files.OUTSIDE)
    kept, ledger, taken = [], [], set()
    for part, dob, year, gender, score, second, path, name, box in records:
        path, name = _text(path), _text(name)
        low, high = _age(float(dob), float(year), birth.search(path))
        reason = _reason(path, low, high, score, second, outside, taken)
        if reason:
            ledger.append({"path": path, "reason": reason})
            continue
        taken.add(path)
        subject = " ".join(unicodedata.normalize("NFKC", name).casefold().split())
        left, top, right, bottom = map(float, box.ravel())
        row = {"path": path, "subject": subject or f"{part}:{re.search(r'([^/_]+)[^/]*$', path)[1]}"}
        row["gender"] = {0.0: "female", 1.0: "male"}.get(float(gender))
        row |= {"age_low": low, "age_high": high, "dataset": "imdb_wiki"}
        row |= {"left": max(left - 1, 0), "top": max(top - 1, 0), "right": right, "bottom": bottom}
        kept.append(row)
    return pd.DataFrame(kept).reindex(columns=list(TABLE_COLUMNS)).astype(TABLE_COLUMNS), pd.DataFrame(ledger)


def _reason(path: str, low, high, score, second, outside, taken) -> str:
    if outside.search(path):
        return "path outside the folder"
    if not score > -np.inf:
        return "no face"
    if not np.isnan(second):
        return "second face"
    if score < 1.0:
        return "low score"
    if low is None:
        return "impossible date"
    if low < 0 or high > 100:
        return "age out of range"
    return "duplicate image" if path in taken else ""


def _age(dob: float, year: float, birth: re.Match | None) -> tuple:
    if not 1 <= year <= 9999:
        return None, None
    y, m, d = map(int, birth.groups()) if birth else (1, 1, 1)
    if m > 12 or d > 31:
        return None, None
    if m == 0 or d == 0:
        if y < 1:
            return None, None
        first, last = (max(m, 1), max(d, 1)), (m or 12, d or 31) if m else (12, 31)
        return int(year) - y - (last > (7, 1)), int(year) - y - (first > (7, 1))
    if not imdb_wiki.FIRST_DATE <= dob < imdb_wiki.LAST_DATE + 1:
        return None, None
    born = dt.date.fromordinal(int(dob) - 366)
    age = int(year) - born.year - ((born.month, born.day) > (7, 1))
    return age, age


def measure(folder: Path) -> pd.DataFrame:
    """Seconds of loadmat alone, of our way and of the loop beyond it, in this order; the memory's peak after ours."""
    import resource  # here: Windows has none, and tests use the rest

    start = time.process_time()
    for part in imdb_wiki.PARTS:
        loadmat(folder / f"{part}.mat")
    reading = time.process_time() - start
    start = time.process_time()
    ours = imdb_wiki.load(folder, check_images=False)
    whole = time.process_time() - start
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)
    contents = {part: loadmat(folder / f"{part}.mat") for part in imdb_wiki.PARTS}
    beyond = []
    for _ in range(3):  # the files' contents at hand: what is left is the cleaning alone
        original, imdb_wiki.loadmat = imdb_wiki.loadmat, lambda file: contents[Path(file).stem]
        start = time.process_time()
        imdb_wiki.load(folder, check_images=False)
        beyond.append(time.process_time() - start)
        imdb_wiki.loadmat = original
    start = time.process_time()
    table, ledger = by_record(from_structs(contents))
    loop = time.process_time() - start
    start = time.process_time()
    few = sum(map(len, by_record(from_frame(contents, FEW))))
    rowwise = (time.process_time() - start) / few * (len(table) + len(ledger))
    pd.testing.assert_frame_equal(ours.table, table)
    pd.testing.assert_frame_equal(ours.ledger.astype(object), ledger.astype(object))
    rows = {
        "records": len(ours.table) + len(ours.ledger),
        "loadmat, s": reading,
        "whole call with loadmat, s": whole,
        "cleaning beyond loadmat, s (median of 3)": np.median(beyond),
        "plain loop beyond loadmat, s": loop,
        "times as fast as the loop": loop / np.median(beyond),
        "loop over a DataFrame's rows, s (carried up from 20,000)": rowwise,
        "times as fast as that": rowwise / np.median(beyond),
        "peak memory, GiB": memory,
    }
    return pd.DataFrame({"what": list(rows), "value": list(rows.values())})


def made_hashes(count: int, seed: int = SEED) -> np.ndarray:
    """uint64 (count,): a half drawn bit by bit, the rest within three bits of one of those."""
    rng = np.random.default_rng(seed)
    first = rng.integers(2**64, size=-(-count // 2), dtype=np.uint64)
    flips = np.bitwise_or.reduce(np.uint64(1) << rng.integers(64, size=(3, count // 2)).astype(np.uint64))
    return np.concatenate([first, first[: count // 2] ^ flips])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="holds the real wiki.mat")
    parser.add_argument("--records", type=int, default=IMDB, help="of the made imdb.mat (default: %(default)s)")
    parser.add_argument("--hashes", type=int, default=IMDB + WIKI, help="of the search (default: %(default)s)")
    parser.add_argument("--csv", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "wiki.mat").symlink_to((options.folder / "wiki.mat").resolve())
        with ProcessPoolExecutor(1) as elsewhere:  # its memory is not to be counted
            elsewhere.submit(make_imdb, folder / "imdb.mat", folder / "wiki.mat", options.records).result()
        table = measure(folder)
    hashes = made_hashes(options.hashes)
    start = time.process_time()
    groups = len(np.unique(group_similar_hashes(hashes)))
    table.loc[len(table)] = "near-duplicates among hashes, s", time.process_time() - start
    table.loc[len(table)] = "hashes", options.hashes
    table.loc[len(table)] = "groups found", groups
    print(table.to_string(index=False, float_format="{:,.2f}".format))
    if options.csv:
        table.to_csv(options.csv, index=False, float_format="%.3f", lineterminator="\n")


if __name__ == "__main__":
    main()
