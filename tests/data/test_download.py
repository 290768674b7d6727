"""Downloading over connections that break and unpacking archives, against a misbehaving server on this machine."""

import io
import json
import re
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from src import data
from src.data import download as download_module
from src.data.download import ADDRESSES, DownloadError, download, main
from src.files import TEMPORARY_PREFIX

RANDOM = np.random.default_rng(1).bytes(3_000_000)
BLOCK = 1 << 16


def tar_of(members, mode="w"):
    """The bytes of a .tar (or, with mode "w:gz", a .tar.gz) of (name, content or (type, link target)) members."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if isinstance(content, bytes):
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
            else:
                info.type, info.linkname = content
                tar.addfile(info)
    return file.getvalue()


def zip_of(members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return file.getvalue()


CONTENT = tar_of([("crop/01/a.jpg", b"one"), ("crop/b.bin", RANDOM)])


class Server(ThreadingHTTPServer):
    """Serves `content` at every path; its attributes say how it misbehaves."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.tag = CONTENT, '"one"'
        self.cuts: list[int] = []  # bytes after which connections break, in turn
        self.errors: list[int] = []  # answers in place of the file, in turn
        self.ranges: list[str | None] = []  # what was asked for

    def handle_error(self, *_):
        """A client that closes the connection is no error here."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.answer(0)

    def do_GET(self):
        server, asked = self.server, self.headers.get("Range")
        server.ranges.append(asked)
        start = int(re.match(r"bytes=(\d+)-", asked)[1]) if asked and self.headers.get("If-Range") == server.tag else 0
        if not self.answer(start):
            return
        body = server.content[start:]
        if server.cuts:
            body = body[: server.cuts.pop(0)]
            self.close_connection = True
        self.wfile.write(body)

    def answer(self, start):
        server = self.server
        error = server.errors.pop(0) if server.errors else None
        self.send_response(error or (206 if start else 200))
        self.send_header("ETag", server.tag)
        self.send_header("Content-Length", "0" if error else str(len(server.content) - start))
        self.end_headers()
        return not error


@pytest.fixture
def server():
    made = Server()
    thread = threading.Thread(target=made.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()
    thread.join()


@pytest.fixture
def get(server, tmp_path, monkeypatch):
    """Downloads the server's file as a data set; returns the folder. Pauses between attempts are left out."""
    monkeypatch.setattr("time.sleep", lambda _: None)
    addresses, folder = tmp_path / "addresses.json", tmp_path / "web"

    def run(file="set.tar", retries=0):
        listed = {"page": "https://example.org/", "files": [f"http://127.0.0.1:{server.server_port}/{file}"]}
        addresses.write_text(json.dumps({"web": listed}))
        monkeypatch.setattr(download_module, "RETRIES", retries)
        download("web", folder, addresses)
        return folder

    return run


def is_complete(folder):
    return (folder / "crop/01/a.jpg").read_bytes() == b"one" and (folder / "crop/b.bin").read_bytes() == RANDOM


def test_broken_connections_are_resumed_within_one_run(server, get):
    server.cuts = [1_000_000, 1_500_000, 0, 10]
    assert is_complete(get(retries=4))
    starts = [int(asked[6:-1]) for asked in server.ranges[1:]]
    assert server.ranges[0] is None and starts == sorted(starts) and starts[-1] > 2_300_000


def test_a_later_run_resumes(server, get, tmp_path):
    server.cuts = [2_000_000]
    with pytest.raises(DownloadError, match="run this command again to resume") as caught:
        get()
    assert "\n" not in str(caught.value) and not (tmp_path / "web/downloads/set.tar").exists()
    server.ranges.clear()
    assert is_complete(get()) and server.ranges == [f"bytes={2_000_000 // BLOCK * BLOCK}-"]
    assert sorted(path.name for path in (tmp_path / "web/downloads").iterdir()) == ["set.tar", "unpacked.json"]


@pytest.mark.parametrize("tags", [('"one"', '"two"'), ("", "")])
def test_bytes_of_two_versions_are_never_joined(server, get, tags):
    server.tag, server.content, server.cuts = tags[0], b"old" * 900_000, [1_000_000]
    with pytest.raises(DownloadError):
        get()
    server.tag, server.content = tags[1], CONTENT
    assert is_complete(get()) and server.ranges[-1] is None


def test_a_client_error_is_not_retried_and_a_server_error_is(server, get):
    server.errors = [404]
    with pytest.raises(DownloadError, match="the server answered 404 Not Found"):
        get(retries=3)
    server.errors = [503, 500]
    assert is_complete(get(retries=2))


def test_a_server_that_does_not_answer_head_requests(server, get):
    server.errors = [405]
    assert is_complete(get()) and server.ranges == [None]


def test_what_is_unpacked_is_not_downloaded_again(server, get):
    folder = get()
    server.ranges.clear()
    assert is_complete(get()) and not server.ranges
    (folder / "crop/01/a.jpg").unlink()
    (folder / "crop/01").rmdir()
    (folder / "crop/b.bin").unlink()
    (folder / "crop").rmdir()
    assert is_complete(get()) and not server.ranges  # unpacked again from the download


def test_a_file_that_changed_since_its_first_download_is_refused(server, get):
    folder = get()
    (folder / "downloads/set.tar").unlink()
    (folder / "crop").rename(folder / "elsewhere")
    server.content += bytes(512)
    with pytest.raises(DownloadError, match="does not match the known hash"):
        get()
    assert not (folder / "crop").exists()


def test_a_page_in_place_of_the_archive_is_not_recorded(server, get, tmp_path):
    server.content = b"<html>log in</html>"
    with pytest.raises(DownloadError, match="delete it and download it again"):
        get()
    assert not (tmp_path / "web/downloads/unpacked.json").exists()


def test_files_to_download_by_hand(tmp_path):
    addresses, folder = tmp_path / "addresses.json", tmp_path / "hand"
    entry = {"page": "https://example.org/", "by_hand": "fill in the form", "files": ["labels.txt"]}
    addresses.write_text(json.dumps({"hand": entry}))
    with pytest.raises(
        FileNotFoundError, match="fill in the form, put labels.txt into .*downloads/ and run this command again"
    ):
        download("hand", folder, addresses)
    (folder / "downloads/labels.txt").write_text("labels")
    download("hand", folder, addresses)
    assert (folder / "labels.txt").read_text() == "labels"


def test_the_command_says_in_one_line_what_to_do_by_hand(tmp_path):
    with pytest.raises(FileNotFoundError, match="register on that page") as caught:
        main(["adience", "--to", str(tmp_path / "set")])
    assert "\n" not in str(caught.value)


def test_the_address_list_names_every_real_data_set():
    listed = json.loads(ADDRESSES.read_text(encoding="utf-8"))
    assert set(listed) == set(data.DATASETS) - {"sample"}
    for entry in listed.values():
        assert entry["page"].startswith("https://")
        assert all(file.startswith("https://") for file in entry["files"]) or entry["by_hand"]


GOOD = [("crop/01/a.jpg", b"one"), ("crop/ü b.jpg", b"two" * 1000)]
ARCHIVES = {"set.tar": tar_of(GOOD), "set.tar.gz": tar_of(GOOD, "w:gz"), "set.zip": zip_of(GOOD)}


@pytest.mark.parametrize("file", ARCHIVES)
def test_archives_are_unpacked(server, get, file):
    server.content = ARCHIVES[file]
    folder = get(file)
    assert (folder / "crop/01/a.jpg").read_bytes() == b"one"
    assert (folder / "crop/ü b.jpg").read_bytes() == b"two" * 1000


@pytest.mark.parametrize("file", ARCHIVES)
def test_a_damaged_archive_leaves_nothing(server, get, file, tmp_path):
    server.content = ARCHIVES[file][: len(ARCHIVES[file]) // 4]
    with pytest.raises(DownloadError, match="cannot be unpacked .*: delete it and download it again") as caught:
        get(file)
    assert "\n" not in str(caught.value)
    assert sorted(path.name for path in (tmp_path / "web").iterdir()) == ["downloads"]


BAD_MEMBERS = [
    ("../out.jpg", b"x"),
    ("crop/../../out.jpg", b"x"),
    ("link", (tarfile.SYMTYPE, "/etc/passwd")),
    ("hard", (tarfile.LNKTYPE, "../../out.jpg")),
    ("null", (tarfile.CHRTYPE, "")),
]


@pytest.mark.parametrize("member", BAD_MEMBERS, ids=lambda member: member[0])
def test_a_tar_that_leads_outside_its_folder_is_refused_whole(server, get, member, tmp_path):
    server.content = tar_of([*GOOD, member])
    with pytest.raises(DownloadError, match="cannot be unpacked"):
        get()
    assert sorted(path.name for path in (tmp_path / "web").iterdir()) == ["downloads"]


def test_a_zip_never_writes_outside_its_folder(server, get, tmp_path):
    server.content = zip_of([("../out.jpg", b"x"), ("/out.jpg", b"x"), *GOOD])
    get("set.zip")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["addresses.json", "web"]


def test_what_a_killed_unpacking_left_is_removed(get, tmp_path):
    half = tmp_path / "web" / f"{TEMPORARY_PREFIX}half" / "crop"
    half.mkdir(parents=True)
    assert is_complete(get()) and not half.parent.exists()


def test_a_run_that_ended_between_two_moves_is_resumed(server, get, tmp_path, monkeypatch):
    server.content = zip_of([("train/a.jpg", b"one"), ("val/b.jpg", b"two")])
    move, moved = download_module.os.replace, []

    def stop_at_the_second(source, target):
        if Path(target).parent == tmp_path / "web":
            if moved:
                raise KeyboardInterrupt
            moved.append(target)
        move(source, target)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(download_module.os, "replace", stop_at_the_second)
        get("set.zip")
    assert not (tmp_path / "web/val").exists()
    folder = get("set.zip")
    assert (folder / "train/a.jpg").read_bytes() == b"one" and (folder / "val/b.jpg").read_bytes() == b"two"
    assert not list(folder.glob(f"{TEMPORARY_PREFIX}*"))


def test_existing_files_are_not_overwritten(server, get, tmp_path):
    (tmp_path / "web/crop").mkdir(parents=True)
    with pytest.raises(FileExistsError, match="crop exists already: move it away"):
        get()
    assert not list((tmp_path / "web/crop").iterdir())
