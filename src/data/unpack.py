"""Unpacking an archive from elsewhere: nothing leaves the folder, nothing larger than announced, no links.

Before it: an archive. After it: `fetch`.
"""

import os
import shutil
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, NamedTuple

from tqdm.auto import tqdm

from src.files import HIDDEN

DAMAGED = (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError)


class ArchiveError(ValueError):
    """An archive that was refused or is damaged; its text says why in one sentence."""


class _Member(NamedTuple):
    name: str
    size: int
    kind: str  # file, folder, or what else it is
    data: IO[bytes] | None


def unpack(archive: Path, folder: Path, at_most: int) -> list[Path]:
    """Unpacks a .tar, .tar.gz or .zip into `folder`, whole or not at all; gives what it put there at the top.

    at_most: bytes that all files together may have. Refused, with an ArchiveError that names the member: absolute paths,
    paths with "..", links and devices, more bytes than `at_most`, damaged archives, and a name that is in the folder
    already. A file of another kind is copied as it is.
    """
    folder.mkdir(parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(dir=folder, prefix=HIDDEN))
    try:
        try:
            _fill(new, archive, at_most, folder)
        except ArchiveError:
            raise
        except (*DAMAGED, OSError) as error:
            said = " ".join(str(error).split()) or type(error).__name__
            raise ArchiveError(
                f"{archive} cannot be unpacked ({said}): if it is damaged, delete it and get it anew"
            ) from error
        return _moved(sorted(new.iterdir()), folder)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _moved(entries: list[Path], folder: Path) -> list[Path]:
    moved: list[Path] = []
    try:
        for entry in entries:
            os.replace(entry, folder / entry.name)
            moved.append(entry)
    except OSError:
        for entry in moved:
            os.replace(folder / entry.name, entry)
        raise
    return [folder / entry.name for entry in entries]


def _fill(place: Path, archive: Path, at_most: int, folder: Path) -> None:
    total = 0
    with tqdm(unit="B", unit_scale=True, desc=f"unpacking {archive.name}", mininterval=0.5) as bar:
        for member in _members(archive):
            total += member.size
            _check(archive, member, total, at_most)
            target = place / member.name
            top = folder / target.relative_to(place).parts[0] if target != place else None
            if top and top.exists():  # told at once: the archive may be large
                raise ArchiveError(f"{top} is there already: move it away, then run again")
            if member.kind == "folder" or member.data is None:
                target.mkdir(parents=True, exist_ok=True)
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("wb") as file:
                shutil.copyfileobj(member.data, file, 1 << 20)
            if target.stat().st_size != member.size:
                raise ArchiveError(f"{archive}: {member.name} has {target.stat().st_size:,} bytes and said {member.size:,}")
            bar.update(member.size)


def _check(archive: Path, member: _Member, total: int, at_most: int) -> None:
    posix, windows = PurePosixPath(member.name), PureWindowsPath(member.name)
    if posix.is_absolute() or windows.anchor or ".." in windows.parts or "\0" in member.name:
        raise ArchiveError(f"{archive} was refused: {member.name!r} would be written outside its folder")
    if member.kind not in ("file", "folder"):
        raise ArchiveError(f"{archive} was refused: {member.name!r} is a {member.kind}; only files and folders are taken")
    if total > at_most:
        raise ArchiveError(f"{archive} was refused: it holds more than the {at_most:,} bytes announced")


def _members(archive: Path) -> Iterator[_Member]:
    name = archive.name.lower()
    if name.endswith(".zip"):
        yield from _of_zip(archive)
    elif name.endswith((".tar", ".tar.gz", ".tgz")):
        yield from _of_tar(archive)
    else:
        with archive.open("rb") as data:
            yield _Member(archive.name, archive.stat().st_size, "file", data)


def _of_tar(archive: Path) -> Iterator[_Member]:
    with tarfile.open(archive) as tar:
        for info in tar:
            kind = (
                "file" if info.isreg() else "folder" if info.isdir() else "link" if info.islnk() or info.issym() else "device"
            )
            yield _Member(info.name, info.size if info.isreg() else 0, kind, tar.extractfile(info) if info.isreg() else None)
            tar.members = []  # type: ignore[attr-defined]  # which tarfile would pile up, half a million of them
        # tarfile takes a cut between two members for the end; a whole archive ends with empty blocks.
        tar.fileobj.seek(tar.offset)
        if tar.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError("unexpected end of data")


def _of_zip(archive: Path) -> Iterator[_Member]:
    with zipfile.ZipFile(archive) as source:
        for info in source.infolist():
            # As written in the archive: zipfile mends names silently, and a mended one is no longer what was meant.
            mode = stat.S_IFMT(info.external_attr >> 16)
            kind = (
                "folder"
                if info.is_dir()
                else "file"
                if mode in (0, stat.S_IFREG)
                else "link"
                if stat.S_ISLNK(mode)
                else "device"
            )
            if kind == "file":
                with source.open(info) as data:
                    yield _Member(info.orig_filename, info.file_size, kind, data)
            else:
                yield _Member(info.orig_filename, 0, kind, None)
