"""Downloads and unpacks a data set from its owners: `make data DATASET=imdb_wiki`.

    python -m src.data.fetch DATASET [--to FOLDER]

The addresses are in data/addresses.json. Downloads stay in FOLDER/downloads, with their checksums in checksums.json: where
the owners publish none, the checksum of the first download counts from then on. Where the owners ask for an account or a
form, one sentence says what to do; files that were downloaded by hand are then checked and unpacked in the same way.

Before it: `download` and `unpack`. After it: `datasets`, which read what was unpacked.
"""

import argparse
import json
import sys
from pathlib import Path

import pooch

from src.config import DATA
from src.data.download import DownloadError, download
from src.data.unpack import unpack
from src.files import exclusive_lock, write_text

ADDRESSES = DATA / "addresses.json"
GIGABYTE = 10**9
CHECKSUMS, UNPACKED = "checksums.json", "unpacked.json"  # in the folder of downloads: each file's checksum and what it became


def fetch(name: str, folder: Path, addresses: Path = ADDRESSES) -> None:
    """Downloads and unpacks a data set; what is there already is not done again.

    Args:
        name: the data set.
        folder: where it is unpacked to.
        addresses: the JSON file of each data set's files.

    Raises:
        ValueError: the name is unknown.
        DownloadError: a file cannot be downloaded, or is not the same as the first time.
        FileNotFoundError: files have to be downloaded by hand; the message is the sentence to follow.
        ArchiveError: an archive is damaged or was refused.
    """
    known = json.loads(addresses.read_text(encoding="utf-8"))
    if name not in known:
        raise ValueError(f"data set must be one of {', '.join(known)}, got {name!r}")
    entry, downloads = known[name], folder / "downloads"
    todo = [file for file in entry["files"] if file["file"] not in _read(downloads / UNPACKED)]
    missing = [file["file"] for file in todo if "url" not in file and not (downloads / file["file"]).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{name} has to be downloaded by hand from {entry['page']}: {entry['by_hand']}, put {', '.join(missing)} into "
            f"{downloads}/ and run this again"
        )
    with exclusive_lock(folder / ".lock"):
        for file in todo:
            if file["file"] not in _read(downloads / UNPACKED):  # another run may have done it meanwhile
                _fetch(file, folder, downloads)


def _fetch(file: dict, folder: Path, downloads: Path) -> None:
    target, at_most = downloads / file["file"], int(file["at_most_gigabytes"] * GIGABYTE)
    checksums = downloads / CHECKSUMS
    expected = file.get("sha256") or _read(checksums).get(file["file"])
    if "url" in file:
        download(file["url"], target, at_most, expected)
    found = pooch.file_hash(str(target))
    if expected and found != expected:
        raise DownloadError(f"{target} must have the SHA-256 {expected}, but has {found}: delete it and download it again")
    made = unpack(target, folder, at_most)
    _add(checksums, file["file"], found)
    _add(downloads / UNPACKED, file["file"], [path.name for path in made])


def _read(file: Path) -> dict:
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


def _add(file: Path, key: str, value) -> None:
    write_text(file, json.dumps(_read(file) | {key: value}, indent=1) + "\n")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset")
    parser.add_argument("--to", default="", metavar="FOLDER", help="the folder to unpack into (default: data/DATASET)")
    options = parser.parse_args(arguments)
    folder = Path(options.to).expanduser() if options.to else DATA / options.dataset
    try:
        fetch(options.dataset, folder)
    except (ValueError, OSError) as error:
        print(f"{'' if isinstance(error, FileNotFoundError) else 'error: '}{error}", file=sys.stderr)
        return 1
    print(f"{options.dataset} is in {folder}; next: make run DATASET={options.dataset} DATA={folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
