"""Cleaning: the time and memory for turning the metadata of IMDB-WIKI into a clean table.

    python -m benchmarks.cleaning /path/to/folder/with/wiki.mat [--records 460723] [--hashes 523051] [--csv FILE]

The benchmark writes an imdb.mat of the real size and structure into a temporary folder. Its dates, scores and boxes are
sampled from the records of wiki.mat. `scipy.io.loadmat` is timed separately. The near-duplicate search is timed on random
hashes, half of which are a few bits away from others. Times are processor times of one core.
"""

import sys
import tempfile
import unittest.mock
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.io import loadmat, savemat

from benchmarks.common import Clock, parser, report
from src.config import SEED
from src.data import imdb_wiki
from src.faces.duplicates import group_similar_hashes
from src.sample.imdb_wiki_files import matlab_cells

IMDB, WIKI, CELEBRITIES = 460_723, 62_328, 20_284  # records and people of the real data set


def make_imdb(file: Path, wiki: Path, count: int = IMDB, seed: int = SEED) -> None:
    """Writes an imdb.mat of `count` records with the struct of the real one and values sampled from wiki.mat."""
    rng = np.random.default_rng(seed)
    real = loadmat(wiki)["wiki"].flat[0]
    sampled = rng.integers(real["dob"].size, size=count)
    field = {name: real[name].ravel()[sampled] for name in imdb_wiki.NUMERIC_FIELDS}
    celeb = np.sort(rng.integers(min(CELEBRITIES, -(-count // 3)), size=count))
    names = [
        f"Søren Person {number:05d}" if number % 9 == 0 else f"Some Person {number:05d}" for number in range(CELEBRITIES)
    ]
    births = [str(path.item()).split("_")[1] for path in real["full_path"].ravel()[sampled]]
    paths = [
        f"{c % 100:02d}/nm{c:07d}_rm{i:09d}_{birth}_{year}.jpg"
        for i, (c, birth, year) in enumerate(zip(celeb, births, field["photo_taken"]))
    ]
    struct = {name: values[None] for name, values in field.items()}
    struct["full_path"] = matlab_cells([np.array([path]) for path in paths])
    struct["name"] = matlab_cells([np.array([names[c]]) for c in celeb])
    struct["face_location"] = matlab_cells(list(real["face_location"].ravel()[sampled]))
    struct["celeb_names"] = matlab_cells([np.array([name]) for name in names])
    struct["celeb_id"] = celeb[None] + 1.0
    savemat(file, {"imdb": struct}, do_compression=True)


def measure(folder: Path) -> dict[str, float]:
    """Returns the seconds of loadmat alone and of the cleaning with and without it, and the peak memory."""
    import resource  # Windows does not have this module

    with Clock() as reading:
        for part in imdb_wiki.SUBSETS:
            loadmat(folder / f"{part}.mat")
    with Clock() as whole:
        ours = imdb_wiki.load(folder, check_images=False)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)
    contents, beyond = {part: loadmat(folder / f"{part}.mat") for part in imdb_wiki.SUBSETS}, []
    with unittest.mock.patch.object(imdb_wiki, "loadmat", lambda file: contents[Path(file).stem]):
        for _ in range(3):
            with Clock() as cleaning:
                imdb_wiki.load(folder, check_images=False)
            beyond.append(cleaning.cpu)
    return {
        "records": len(ours.table) + len(ours.ledger),
        "loadmat, s": reading.cpu,
        "whole call with loadmat, s": whole.cpu,
        "cleaning beyond loadmat, s (median of 3)": float(np.median(beyond)),
        "peak memory, GiB": memory,
    }


def random_hashes(count: int, seed: int = SEED) -> np.ndarray:
    """Returns hashes, uint64 (count,): half of them random, each other one within three bits of one of these."""
    rng = np.random.default_rng(seed)
    first = rng.integers(2**64, size=-(-count // 2), dtype=np.uint64)
    flips = np.bitwise_or.reduce(np.uint64(1) << rng.integers(64, size=(3, count // 2)).astype(np.uint64))
    return np.concatenate([first, first[: count // 2] ^ flips])


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("folder", type=Path, help="folder of the real wiki.mat")
    arguments.add_argument("--records", type=int, default=IMDB, help="size of the artificial imdb.mat (default: %(default)s)")
    arguments.add_argument("--hashes", type=int, default=IMDB + WIKI, help="hashes to search (default: %(default)s)")
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "wiki.mat").symlink_to((options.folder / "wiki.mat").resolve())
        with ProcessPoolExecutor(1) as elsewhere:  # in another process, whose memory is not counted
            elsewhere.submit(make_imdb, folder / "imdb.mat", folder / "wiki.mat", options.records).result()
        rows = measure(folder)
    hashes = random_hashes(options.hashes)
    with Clock() as clock:
        groups = len(np.unique(group_similar_hashes(hashes)))
    rows |= {"near-duplicates among hashes, s": clock.cpu, "hashes": options.hashes, "groups found": groups}
    report(pd.DataFrame({"what": list(rows), "value": list(rows.values())}), options.csv)


if __name__ == "__main__":
    main()
