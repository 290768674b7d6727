"""Downloads a large file over connections that break: resumed where it stopped, checked, and written whole.

pooch (https://www.fatiando.org/pooch/) keeps and checks the file. It starts each download from the beginning, so the
transfer itself is done here.

Before it: `files`. After it: `fetch`.
"""

import json
import os
import shutil
import time
from pathlib import Path

import pooch
import requests
from tqdm.auto import tqdm

from src.files import resolve_links, write_text

TRIES = 5  # attempts in a row without a new byte
PAUSE = 2.0  # seconds before the second try, twice as long before each further one
SILENCE = 60  # seconds without a byte after which a connection counts as broken
BLOCK = 1 << 16  # bytes; an incomplete block is lost when a connection breaks
BROKEN = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)


class DownloadError(OSError):
    """A file that cannot be downloaded; the message says why in one sentence."""


def download(url: str, target: Path, at_most: int, sha256: str | None = None, pause: float = PAUSE) -> None:
    """Downloads `url` to `target`, unless it is there already.

    What a broken download leaves is kept beside the target as NAME.part. The next run resumes it, as long as the server
    confirms that the file is still the same.

    Args:
        url: the address.
        target: the file to write. Nothing is written there that is not complete and correct.
        at_most: the most bytes that the file may have.
        sha256: its checksum, where that is known.
        pause: seconds before the second attempt; doubled before each further one.

    Raises:
        DownloadError: the file cannot be downloaded; the message says why.
    """
    target = resolve_links(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    pooch.get_logger().setLevel("ERROR")
    known = f"sha256:{sha256}" if sha256 else None
    try:
        pooch.retrieve(url, known, target.name, target.parent, downloader=_Resuming(target, at_most, pause))
    except ValueError as error:
        if "hash" not in str(error).lower():
            raise
        raise DownloadError(f"{url} gave other bytes than expected: its SHA-256 is not {sha256}; nothing was kept") from error
    except requests.RequestException as error:
        raise DownloadError(f"{url} cannot be fetched: {_short(error)}") from error


class _Resuming:
    """A downloader for pooch that resumes what is there."""

    def __init__(self, target: Path, at_most: int, pause: float):
        self.part, self.note = (target.with_name(f"{target.name}.part{end}") for end in ("", ".json"))
        self.at_most, self.pause = at_most, pause

    def __call__(self, url: str, output_file: str, _pooch) -> None:
        tried = 0
        while True:
            before = self._size()
            try:
                self._transfer(url)
                break
            except BROKEN as error:
                tried = 1 if self._size() > before else tried + 1
                if tried == TRIES:
                    kept = f"{self._size():,} bytes are kept, run again to go on"
                    raise DownloadError(f"{url}: the connection broke {TRIES} times ({_short(error)}); {kept}") from error
                time.sleep(self.pause * 2 ** (tried - 1))
        os.replace(self.part, output_file)
        self.note.unlink(missing_ok=True)

    def _transfer(self, url: str) -> None:
        """One connection: resumes the partial file, or starts again where the partial file is of no use."""
        start, same = self._size(), self._validator(url)
        headers = {"Accept-Encoding": "identity"}
        if start and same:
            headers |= {"Range": f"bytes={start}-", "If-Range": same}
        with requests.get(url, headers=headers, stream=True, timeout=SILENCE) as response:
            if url.startswith("https:") and not response.url.startswith("https:"):
                raise DownloadError(f"{url} leads to {response.url}, which is not encrypted; it was not followed")
            if response.status_code == 416 or (response.status_code == 206 and _first_byte(response) != start):
                self.part.unlink(missing_ok=True)
                raise requests.ConnectionError("the server gave another range than asked for")
            if response.status_code >= 500:
                raise requests.ConnectionError(f"the server answered {response.status_code}")
            response.raise_for_status()
            start = start if response.status_code == 206 else 0
            length = response.headers.get("Content-Length", "")
            total = start + int(length) if length.isdigit() else None
            self._check(url, total or 0, start)
            self._remember(url, response)
            self._write(url, response, start, total)

    def _write(self, url: str, response, start: int, total: int | None) -> None:
        with (
            self.part.open("r+b" if start else "wb") as file,
            tqdm(total=total, initial=start, unit="B", unit_scale=True, desc=self.part.stem, mininterval=0.5) as bar,
        ):
            file.seek(start)
            for block in response.iter_content(BLOCK):
                file.write(block)
                bar.update(len(block))
                if file.tell() > self.at_most:
                    self._check(url, file.tell(), file.tell())
        if total is not None and self._size() < total:
            raise requests.ConnectionError(f"{self._size():,} of {total:,} bytes came")

    def _check(self, url: str, total: int, have: int) -> None:
        if total > self.at_most:
            self.part.unlink(missing_ok=True)
            raise DownloadError(f"{url} is larger than announced: at most {self.at_most:,} bytes, got {total:,}")
        free = shutil.disk_usage(self.part.parent).free
        if total - have > free:
            raise DownloadError(f"{url} needs {total - have:,} more bytes, {free:,} are free in {self.part.parent}")

    def _size(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def _validator(self, url: str) -> str | None:
        try:
            note = json.loads(self.note.read_text(encoding="utf-8"))
            return note["same"] if note["url"] == url else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _remember(self, url: str, response) -> None:
        """Notes how the server identifies this file. A weak tag does not count: it does not guarantee equal bytes."""
        tag = response.headers.get("ETag", "")
        same = tag if tag.startswith('"') else response.headers.get("Last-Modified")
        write_text(self.note, json.dumps({"url": url, "same": same}))


def _first_byte(response) -> int | None:
    """The first byte of a partial response, or None where the response does not say."""
    said = response.headers.get("Content-Range", "").removeprefix("bytes ").split("-")[0]
    return int(said) if said.isdigit() else None


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:160]
