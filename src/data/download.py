"""Downloads and unpacks a data set: `make data DATASET=imdb_wiki` or `python -m src.data.download DATASET [--to FOLDER]`.

data/addresses.json lists the files of each data set. If the authors require an account or a form, the command says which
files to download by hand; run it again to check and unpack them. Downloads stay in FOLDER/downloads.
"""

import argparse
import hashlib
import json
import os
import shutil
import tarfile
import tempfile
import zipfile
import zlib
from pathlib import Path

import pooch
import requests
from tqdm.auto import tqdm

from src.config import DATA
from src.files import TEMPORARY_PREFIX, exclusive_lock, write_text
from src.processes import run_command

ADDRESSES = DATA / "addresses.json"
UNPACKED = "unpacked.json"  # records, for each archive, its SHA-256 and the names of the unpacked files
RETRIES = 9  # pooch waits 1, 2, … 9 seconds before them
PERMANENT_ERRORS = (401, 403, 404, 410)  # status codes after which another attempt is useless
TIMEOUT = 60  # seconds without a byte after which a connection counts as broken
DAMAGED_ARCHIVE_ERRORS = (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError)


class DownloadError(OSError):
    """A file that cannot be downloaded or unpacked."""


def download(name: str, folder: Path, addresses: Path = ADDRESSES) -> None:
    """Downloads and unpacks a data set, except for files that are already unpacked.

    A broken download is resumed, also by a later run, and incomplete downloads and archives are detected. The authors publish
    no checksums, so the SHA-256 of a file's first download is recorded, and a later download must match it.

    Args:
        name: The data set.
        folder: Folder to unpack into; nothing is written outside it.
        addresses: JSON file with the page and the files of each data set: URLs, or names of files to download by hand.

    Raises:
        ValueError: The name is unknown.
        FileNotFoundError: Files have to be downloaded by hand; the message says how.
        FileExistsError: A file or folder with an unpacked name exists already.
        DownloadError: A file cannot be downloaded, has another checksum, or is damaged.
    """
    known = json.loads(addresses.read_text(encoding="utf-8"))
    if name not in known:
        raise ValueError(f"data set must be one of {', '.join(known)}, got {name!r}")
    entry, downloads = known[name], folder / "downloads"
    with exclusive_lock(folder / ".lock"):
        downloads.mkdir(exist_ok=True)
        record_file = downloads / UNPACKED
        record = json.loads(record_file.read_text(encoding="utf-8")) if record_file.exists() else {}
        sources = {file.rpartition("/")[2]: file for file in entry["files"]}  # URLs, or names of files to download by hand
        todo = [file for file in sources if not _is_unpacked(record.get(file), folder)]
        by_hand = [file for file in todo if not sources[file].startswith("http")]
        missing = [file for file in by_hand if not (downloads / file).is_file()]
        if missing:
            raise FileNotFoundError(
                f"{name} has to be downloaded by hand from {entry['page']}: {entry['by_hand']}, put {', '.join(missing)} "
                f"into {downloads}/ and run this command again"
            )
        for file in todo:
            archive, sha256 = downloads / file, record.get(file, {}).get("sha256")
            if file not in by_hand:
                _fetch(sources[file], archive, sha256)
            found = pooch.file_hash(str(archive))
            if sha256 not in (None, found):
                raise DownloadError(f"{archive} must have the SHA-256 {sha256}, got {found}: delete it and download it again")
            # After a kill, `exclusive_lock` removes the temporary folder.
            with tempfile.TemporaryDirectory(dir=folder, prefix=TEMPORARY_PREFIX, ignore_cleanup_errors=True) as new:
                _unpack(archive, Path(new))
                names, moved = sorted(os.listdir(new)), record.get(file, {}).get("unpacked", [])
                present = [name for name in names if (folder / name).exists()]
                if others := [name for name in present if name not in moved]:
                    problem = f"{folder / others[0]} exists already: move it away, then run this command again"
                    raise FileExistsError(problem)
                # The record comes first, so that a run that is killed between two moves can be resumed.
                record[file] = {"sha256": found, "unpacked": names}
                write_text(record_file, json.dumps(record, indent=1) + "\n")
                for name in sorted(set(names) - set(present)):
                    os.replace(Path(new) / name, folder / name)


def _is_unpacked(recorded: dict | None, folder: Path) -> bool:
    """Returns whether all files and folders of an entry of `UNPACKED` exist."""
    return recorded is not None and all((folder / name).exists() for name in recorded["unpacked"])


def _fetch(url: str, target: Path, sha256: str | None) -> None:
    source = pooch.create(target.parent, "", registry={target.name: sha256}, urls={target.name: url}, retry_if_failed=RETRIES)
    try:
        source.fetch(target.name, downloader=_download_resumable)
    except (ValueError, requests.RequestException) as error:  # pooch raises a ValueError for a wrong checksum
        reason = " ".join(str(error).split())
        raise DownloadError(f"{url} cannot be downloaded ({reason}): run this command again to resume") from error


def _download_resumable(url: str, output_file: str, _pooch: object) -> None:
    """Downloads a file, as pooch's downloader. Resumes a partial file if the server still has the same version."""
    headers = {"Accept-Encoding": "identity"}
    head = requests.head(url, headers=headers, allow_redirects=True, timeout=TIMEOUT)
    if head.status_code in PERMANENT_ERRORS:
        raise DownloadError(f"{url} cannot be downloaded: the server answered {head.status_code} {head.reason}")
    if head.status_code == requests.codes.method_not_allowed:  # then neither the version nor the size is known
        head.headers.clear()
    else:
        head.raise_for_status()
    version = head.headers.get("ETag") or head.headers.get("Last-Modified", "")
    partial = Path(output_file).with_name(f"{hashlib.sha256(f'{url} {version}'.encode()).hexdigest()[:16]}.part")
    size = int(head.headers.get("Content-Length", 0))
    start = partial.stat().st_size if version and partial.exists() else 0
    if start:
        headers |= {"Range": f"bytes={start}-", "If-Range": version}
    if not size or start < size:
        with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
            response.raise_for_status()
            start = start if response.status_code == 206 else 0  # any other answer contains the whole file
            bar = tqdm(total=size or None, initial=start, unit="B", unit_scale=True, mininterval=0.5)
            with partial.open("ab" if start else "wb") as file, bar:
                for block in response.iter_content(1 << 16):
                    file.write(block)
                    bar.update(len(block))
    os.replace(partial, output_file)


def _unpack(archive: Path, folder: Path) -> None:
    """Unpacks an archive, or copies another file, into the folder."""
    print(f"unpacking {archive.name}", flush=True)
    try:
        if archive.name.endswith((".tar", ".tar.gz", ".tgz")):
            if not hasattr(tarfile, "data_filter"):
                raise DownloadError(f"{archive} must be unpacked by hand, because Python 3.11.4 or later is required for it")
            with tarfile.open(archive) as tar:
                tar.extractall(folder, filter="data")  # refuses names and links that lead outside
        elif archive.name.endswith(".zip"):
            with zipfile.ZipFile(archive) as source:
                source.extractall(folder)  # removes drives and ".." from names
        else:
            shutil.copy(archive, folder)
    except DAMAGED_ARCHIVE_ERRORS as error:
        raise DownloadError(f"{archive} cannot be unpacked ({error}): delete it and download it again") from error


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset")
    parser.add_argument("--to", default="", metavar="FOLDER", help="the folder to unpack into (default: data/DATASET)")
    options = parser.parse_args(arguments)
    folder = Path(options.to).expanduser() if options.to else DATA / options.dataset
    download(options.dataset, folder)
    setting, notebooks = f" DATA={folder}" if options.to else "", "5 1 2" if options.dataset == "imdb_wiki" else "1 2"
    print(f'{options.dataset} is in {folder}; next: make run DATASET={options.dataset}{setting} NOTEBOOKS="{notebooks}"')
    return 0


if __name__ == "__main__":
    run_command(main)
