"""Getting data over bad connections and from bad archives: against a server on this machine that misbehaves on purpose."""

import errno
import hashlib
import io
import json
import os
import re
import subprocess
import sys
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from src.config import ROOT
from src.data.download import DownloadError, download
from src.data.fetch import ADDRESSES, fetch
from src.data.unpack import ArchiveError, unpack

CONTENT = np.random.default_rng(1).bytes(3_000_000)
SHA = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves `content` at every path; its attributes say how it misbehaves."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.tag, self.cuts = CONTENT, '"one"', []  # cuts: bytes after which connections break, in turn
        self.claimed, self.wrong_range, self.answers, self.ranges = None, False, [], []

    def handle_error(self, *_):
        """A client that hangs up is what is tested here, no error."""

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/set.tar"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        server, asked = self.server, self.headers.get("Range")
        server.ranges.append(asked)
        if self.path == "/loop":
            return self.move("/loop")
        if self.path == "/moved":
            return self.move("/set.tar")
        if server.answers:
            self.send_response(server.answers.pop(0))
            self.send_header("Content-Length", "0")
            return self.end_headers()
        start = int(re.match(r"bytes=(\d+)-", asked)[1]) if asked and self.headers.get("If-Range") == server.tag else 0
        body = server.content[start:]
        self.send_response(206 if start else 200)
        if start:
            first = start + 7 if server.wrong_range else start
            self.send_header("Content-Range", f"bytes {first}-{len(server.content) - 1}/{len(server.content)}")
        if server.tag:
            self.send_header("ETag", server.tag)
        self.send_header("Content-Length", str(server.claimed or len(body)))
        self.end_headers()
        if server.cuts:
            body = body[: server.cuts.pop(0)]
            self.close_connection = True
        self.wfile.write(body)

    def move(self, place):
        self.send_response(302)
        self.send_header("Location", place)
        self.send_header("Content-Length", "0")
        self.end_headers()


@pytest.fixture
def server():
    made = Server()
    thread = threading.Thread(target=made.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()
    thread.join()


def get(url, folder, **options):
    download(url, folder / "set.tar", **{"at_most": 5_000_000, "sha256": SHA, "pause": 0.0} | options)
    return (folder / "set.tar").read_bytes()


def refused(url, folder, said, **options):
    """The one sentence; nothing stands at the target."""
    with pytest.raises(DownloadError, match=said) as caught:
        get(url, folder, **options)
    assert "\n" not in str(caught.value)
    assert not (folder / "set.tar").exists()


# --- downloads --------------------------------------------------------------------------------------------------------


def test_cut_connections_are_resumed_and_no_byte_comes_twice(server, tmp_path):
    server.cuts = [1_000_000, 1_500_000, 0, 10]
    assert get(server.url, tmp_path) == CONTENT
    starts = [int(asked[6:-1]) for asked in server.ranges[1:]]
    assert server.ranges[0] is None and starts == sorted(starts) and starts[-1] > 2_300_000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set.tar"]


def test_a_file_is_fetched_to_where_a_link_leads(server, tmp_path):
    real, link = tmp_path / "disk" / "big.tar", tmp_path / "set.tar"
    link.symlink_to(real)
    get(server.url, tmp_path)
    assert link.is_symlink() and real.read_bytes() == CONTENT and len(list(tmp_path.iterdir())) == 2


def test_a_later_run_goes_on_where_the_first_gave_up(server, tmp_path):
    server.cuts = [2_000_000, 0, 0, 0, 0, 0]
    refused(server.url, tmp_path, f"{30 * 2**16:,} bytes are kept, run again to go on")
    server.cuts, server.ranges = [], []
    assert get(server.url, tmp_path) == CONTENT and server.ranges == [f"bytes={30 * 2**16}-"]


@pytest.mark.parametrize("change", ["another file", "no tag", "weak tag"])
def test_what_may_be_another_file_is_not_stitched(server, tmp_path, change):
    if change != "another file":
        server.tag = "" if change == "no tag" else 'W/"one"'
    server.content, server.cuts = b"old" * 900_000, [1_000_000, 0, 0, 0, 0, 0]
    refused(server.url, tmp_path, "run again")
    server.content, server.cuts = CONTENT, []
    server.tag = '"two"' if change == "another file" else server.tag
    assert get(server.url, tmp_path) == CONTENT


def test_a_wrong_range_is_thrown_away(server, tmp_path):
    server.cuts, server.wrong_range = [1_000_000], True
    assert get(server.url, tmp_path) == CONTENT and server.ranges[-1] is None


def test_wrong_bytes_are_not_kept(server, tmp_path):
    server.content = CONTENT[:-1] + b"?"
    refused(server.url, tmp_path, f"its SHA-256 is not {SHA}; nothing was kept")
    server.content = CONTENT
    assert get(server.url, tmp_path) == CONTENT


def test_redirects_are_followed_but_not_for_ever(server, tmp_path):
    refused(server.url.replace("/set.tar", "/loop"), tmp_path, "30 redirects")
    assert get(server.url.replace("/set.tar", "/moved"), tmp_path) == CONTENT


@pytest.mark.parametrize("claimed", [4_000_000, 10**15])
def test_a_file_that_never_reaches_its_claimed_size_is_refused(server, tmp_path, claimed):
    server.claimed = claimed
    server.cuts = [3_000_000] + [0] * 9  # so that the connection ends
    refused(server.url, tmp_path, "run again|larger than announced")


def test_a_file_that_claims_less_than_it_is_fails_its_checksum(server, tmp_path):
    server.claimed = 1_000_000
    refused(server.url, tmp_path, "SHA-256")


def test_a_file_larger_than_announced_is_refused_before_it_comes(server, tmp_path):
    refused(server.url, tmp_path, r"at most 1,000,000 bytes, got 3,000,000", at_most=1_000_000)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("status", "tries"), [(404, 1), (503, 5)])
def test_a_server_that_says_no_is_one_sentence(server, tmp_path, status, tries):
    server.answers = [status] * 9
    refused(server.url, tmp_path, str(status))
    assert len(server.ranges) == tries


def test_a_busy_server_is_asked_again(server, tmp_path):
    server.answers = [503, 500]
    assert get(server.url, tmp_path) == CONTENT


def test_what_is_there_is_not_fetched_again(server, tmp_path):
    get(server.url, tmp_path)
    server.ranges = []
    assert get(server.url, tmp_path) == CONTENT and not server.ranges


# --- archives ---------------------------------------------------------------------------------------------------------


def tar_of(path, members, mode="w"):
    with tarfile.open(path, mode) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if isinstance(content, bytes):
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
            else:
                info.type, info.linkname = content
                tar.addfile(info)
    return path


def zip_of(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            info = zipfile.ZipInfo("x")
            info.filename = name
            if not isinstance(content, bytes):
                info.external_attr, content = 0o120777 << 16, content[1].encode()
            archive.writestr(info, content)
    return path


GOOD = [("crop/", (tarfile.DIRTYPE, "")), ("crop/01/a.jpg", b"one"), ("crop/ü b.jpg", b"two" * 1000)]


@pytest.mark.parametrize("kind", ["set.tar", "set.tar.gz", "set.zip"])
def test_a_good_archive_is_unpacked(tmp_path, kind):
    archive = tmp_path / kind
    if kind == "set.zip":
        zip_of(archive, GOOD[1:])
    else:
        tar_of(archive, GOOD, "w:gz" if kind.endswith("gz") else "w")
    assert [path.name for path in unpack(archive, tmp_path / "to", 3003)] == ["crop"]
    assert (tmp_path / "to/crop/01/a.jpg").read_bytes() == b"one"
    assert (tmp_path / "to/crop/ü b.jpg").read_bytes() == b"two" * 1000


BAD = [
    ("../out.jpg", b"x", "outside its folder"),
    ("crop/../../out.jpg", b"x", "outside its folder"),
    ("/tmp/out.jpg", b"x", "outside its folder"),
    ("C:\\out.jpg", b"x", "outside its folder"),
    ("..\\out.jpg", b"x", "outside its folder"),
    ("link", (tarfile.SYMTYPE, "/etc/passwd"), "is a link"),
    ("crop/link", (tarfile.SYMTYPE, "a.jpg"), "is a link"),
    ("large.jpg", b"x" * 5000, "more than the 4,000 bytes announced"),
    (f"crop/{'x' * 300}.jpg", b"x", "cannot be unpacked"),
]
TAR_ONLY = [
    ("hard", (tarfile.LNKTYPE, "crop/01/a.jpg"), "is a link"),
    ("null", (tarfile.CHRTYPE, ""), "is a device"),
    ("pipe", (tarfile.FIFOTYPE, ""), "is a device"),
]


@pytest.mark.parametrize(
    ("kind", "name", "content", "said"),
    [(kind, *bad) for kind in ("set.tar", "set.zip") for bad in (BAD + TAR_ONLY if kind == "set.tar" else BAD)],
)
def test_a_bad_archive_leaves_nothing(tmp_path, kind, name, content, said):
    """Also not of its good members, which come first."""
    make = tar_of if kind == "set.tar" else zip_of
    members = [("crop/01/a.jpg", b"one"), (name, content)]
    archive = make(tmp_path / kind, members)
    with pytest.raises(ArchiveError, match=said) as caught:
        unpack(archive, tmp_path / "to", 4000)
    assert "\n" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.rglob("*")) == [kind, "to"]


def test_a_zip_that_lies_about_a_size_is_refused(tmp_path):
    archive = zip_of(tmp_path / "set.zip", [("a.bin", bytes(1_000_000))])
    content = archive.read_bytes()
    archive.write_bytes(content.replace((1_000_000).to_bytes(4, "little"), (100).to_bytes(4, "little")))
    with pytest.raises(ArchiveError, match="cannot be unpacked"):
        unpack(archive, tmp_path / "to", 4000)
    assert not list((tmp_path / "to").iterdir())


@pytest.mark.parametrize("kind", ["set.tar", "set.tar.gz", "set.zip"])
@pytest.mark.parametrize("damage", ["cut", "page"])
def test_a_damaged_archive_is_one_sentence(tmp_path, kind, damage):
    archive = tmp_path / kind
    members = [(f"{i}.bin", np.random.default_rng(i).bytes(3000)) for i in range(9)]
    if kind == "set.zip":
        zip_of(archive, members)
    else:
        tar_of(archive, members, "w:gz" if kind.endswith("gz") else "w")
    archive.write_bytes(archive.read_bytes()[: 3 * 3584] if damage == "cut" else b"<html>please log in</html>")
    with pytest.raises(ArchiveError, match="delete it and get it anew") as caught:
        unpack(archive, tmp_path / "to", 10**6)
    assert "\n" not in str(caught.value) and not list((tmp_path / "to").iterdir())


def test_what_is_there_is_not_written_over(tmp_path):
    (tmp_path / "to/crop").mkdir(parents=True)
    with pytest.raises(ArchiveError, match="crop is there already"):
        unpack(tar_of(tmp_path / "set.tar", GOOD), tmp_path / "to", 4000)
    assert not list((tmp_path / "to/crop").iterdir())


def test_what_cannot_be_moved_leaves_nothing(tmp_path, monkeypatch):
    archive = tar_of(tmp_path / "set.tar", [("one/a.jpg", b"1"), ("two/b.jpg", b"2")])
    folder = tmp_path / "to"
    replace, moved = os.replace, []

    def once(source, target):
        moved.append(target)
        if len(moved) == 2:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(target))
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", once)
        with pytest.raises(PermissionError):
            unpack(archive, folder, 100)
    assert not list(folder.iterdir())
    assert [path.name for path in unpack(archive, folder, 100)] == ["one", "two"]


# --- the whole --------------------------------------------------------------------------------------------------------


@pytest.fixture
def addresses(server, tmp_path):
    server.content = tar_of(tmp_path / "served.tar", GOOD).read_bytes()
    hand = {
        "page": "https://example.org/",
        "by_hand": "fill in the form",
        "files": [{"file": "labels.txt", "at_most_gigabytes": 1}],
    }
    listed = {
        "web": {"page": "x", "files": [{"file": "set.tar", "url": server.url, "at_most_gigabytes": 0.1}]},
        "hand": hand,
    }
    file = tmp_path / "addresses.json"
    file.write_text(json.dumps(listed))
    return file


def test_a_data_set_is_fetched_once_and_its_checksum_recorded(server, addresses, tmp_path):
    folder = tmp_path / "web"
    fetch("web", folder, addresses)
    assert (folder / "crop/01/a.jpg").read_bytes() == b"one"
    checksums = json.loads((folder / "downloads/checksums.json").read_text())
    assert checksums == {"set.tar": hashlib.sha256(server.content).hexdigest()}
    server.ranges = []
    fetch("web", folder, addresses)
    assert not server.ranges


def test_a_file_that_changed_since_the_first_time_is_refused(server, addresses, tmp_path):
    folder = tmp_path / "web"
    fetch("web", folder, addresses)
    (folder / "downloads/set.tar").unlink()
    (folder / "downloads/unpacked.json").unlink()
    server.content += bytes(512)
    with pytest.raises(DownloadError, match="other bytes than expected"):
        fetch("web", folder, addresses)


def test_a_page_in_place_of_the_archive_is_not_recorded(server, addresses, tmp_path):
    server.content = b"<html>log in</html>"
    with pytest.raises(ArchiveError, match="get it anew"):
        fetch("web", tmp_path / "web", addresses)
    assert not (tmp_path / "web/downloads/checksums.json").exists()


def test_by_hand_is_one_sentence_and_then_goes_on(addresses, tmp_path):
    folder = tmp_path / "hand"
    with pytest.raises(FileNotFoundError, match="fill in the form, put labels.txt into .*downloads/ and run this again"):
        fetch("hand", folder, addresses)
    (folder / "downloads").mkdir(parents=True)
    (folder / "downloads/labels.txt").write_text("labels")
    fetch("hand", folder, addresses)
    assert (folder / "labels.txt").read_text() == "labels"


def test_the_address_list_names_every_real_data_set():
    listed = json.loads(ADDRESSES.read_text())
    assert set(listed) == {"imdb_wiki", "adience", "utkface", "fairface", "allagefaces"}
    for entry in listed.values():
        assert entry["page"].startswith("https://")
        assert all(file.get("url", "https://").startswith("https://") for file in entry["files"])
        assert all("url" in file for file in entry["files"]) or entry["by_hand"]


@pytest.mark.parametrize(
    "name, said", [("adience", "register on that page"), ("allagefaces", "put All-Age-Faces Dataset.zip into")]
)
def test_the_command_says_what_to_do_by_hand(tmp_path, name, said):
    command = [sys.executable, "-m", "src.data.fetch", name, "--to", str(tmp_path / name)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=os.environ, check=False)
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and said in done.stderr
    assert not (tmp_path / name).exists()
