"""Videos of drawn people who walk, cross, leave and come back; unreadable files; a local web server as a network camera."""

import functools
import http.server
import socket
import subprocess
import threading
import time

import cv2
import imageio_ffmpeg
import numpy as np
import pandas as pd
import pytest

from src.faces.align import Face, eye_centres
from src.faces.detect import VIDEO_DETECTOR, intersection_over_union
from src.predict import camera, demo, predictor, tracks, video
from src.predict.__main__ import main
from src.predict.predictor import Predictor
from src.predict.tracks import MultiTracker, Track
from src.sample import scene
from src.sample.face_model import FaceModel
from src.sample.person import new_person
from src.sample.scene import street as draw_street

FRAMES, RATE = 110, 25


@pytest.fixture(scope="module")
def loaded(standins):
    return Predictor(standins.gender, standins.age, detector=VIDEO_DETECTOR)


@pytest.fixture(scope="module")
def street(tmp_path_factory):
    """The file, its frames, and by frame where each of the three people's faces is."""
    pictures, places = zip(*draw_street(np.random.default_rng(3), FRAMES))
    file = tmp_path_factory.mktemp("film") / "-street 😀.mp4"
    write(file, pictures)
    return file, pictures, places


def write(file, pictures, rate=RATE):
    video.write_video(pictures, pictures[0].shape[1::-1], rate, file)


@pytest.fixture(scope="module")
def made(street, standins, tmp_path_factory):
    """What the command writes."""
    folder = tmp_path_factory.mktemp("made")
    models = ["--gender-model", str(standins.gender), "--age-model", str(standins.age)]
    assert main([f"{street[0].parent}/{street[0].name}", "--annotate", str(folder), *models]) == 0
    return folder


@pytest.fixture(scope="module")
def slow(street, loaded, tmp_path_factory):
    """The film with most of its frames left out, as of a slow camera."""
    file = tmp_path_factory.mktemp("slow") / "slow.mp4"
    write(file, street[1][::5], RATE / 5)
    return video.track_people(file, loaded, progress=False)


@pytest.mark.slow
def test_people_are_tracked_at_few_frames_a_second(street, slow):
    """Nobody is missed, and nobody counted twice."""
    frames, people = slow
    assert len(people) == 3
    visible = sum(box is not None for boxes in street[2][::5] for box in boxes)
    assert len(frames) > 0.7 * visible


def test_three_people_are_three_tracks(street, made):
    frames, people = (pd.read_csv(made / f"-street 😀-{name}.csv") for name in ("frames", "people"))
    assert len(people) == 3 and sorted(people["person"]) == [1, 2, 3]
    whose = {}  # by track: which of the three stands where it says, in each frame
    for row in frames.itertuples():
        shared = [
            intersection_over_union((row.left, row.top, row.right, row.bottom), box) if box else 0
            for box in street[2][row.frame]
        ]
        if max(shared) > 0.4:
            whose.setdefault(row.person, []).append(int(np.argmax(shared)))
    assert sorted(set(whose[person]).pop() for person in whose) == [0, 1, 2], whose
    assert all(len(set(who)) == 1 for who in whose.values()), "nobody becomes another person, when crossing or coming back"
    visible = sum(box is not None for boxes in street[2] for box in boxes)
    assert sum(map(len, whose.values())) > 0.8 * visible
    assert sum(map(len, whose.values())) > 0.95 * len(frames), "there is no box without a person"


def test_a_new_person_gets_a_number_of_their_own():
    """Tracks that turn out to be of one person are merged, which leaves gaps in the numbers."""
    model, rng = FaceModel.load(), np.random.default_rng(2)
    people = [new_person(model, group, gender, rng) for group, gender in ((3, "female"), (6, "male"))]
    pictures = [scene.snapshot(model, [person], (320, 320), 150, rng)[0] for person in people]
    empty = np.full_like(pictures[0], 128)
    tracker = MultiTracker(VIDEO_DETECTOR, fps=1)
    tracker.update(np.hstack([pictures[0], empty]))
    tracker.tracks[0].number = 2
    tracker.update(np.hstack([empty, pictures[1]]))
    assert [track.number for track in tracker.tracks] == [2, 3]


def test_each_person_has_one_prediction(made):
    frames, people = (pd.read_csv(made / f"-street 😀-{name}.csv") for name in ("frames", "people"))
    predictions = ["gender", "p_male", "age_group", "age_years"]
    assert (frames.groupby("person")[predictions].nunique() == 1).all(axis=None)
    assert frames.groupby("person")["p_male"].first().tolist() == people["p_male"].tolist()
    assert (people["detections"] >= 2).all() and (people["frames"] > people["detections"]).all()
    assert frames["second"].tolist() == pytest.approx((frames["frame"] / RATE).tolist(), abs=1e-3)


def test_the_copy_is_what_browsers_play_and_shows_the_boxes(street, made):
    copy = made / "-street 😀.mp4"
    head = subprocess.run(
        [imageio_ffmpeg.get_ffmpeg_exe(), "-i", str(copy)], capture_output=True, text=True, errors="replace"
    ).stderr
    assert "Video: h264" in head and "yuv420p" in head and "640x480" in head
    content = copy.read_bytes()
    assert content.index(b"moov") < content.index(b"mdat"), "it can be played while it is loaded"
    with video.open_video(copy) as (facts, frames):
        pictures = list(frames)
    assert facts["fps"] == RATE and len(pictures) == FRAMES
    changed = [np.abs(one.astype(int) - other).mean() for one, other in zip(pictures, street[1])]
    assert min(changed[10:]) > 2, "boxes and labels are drawn"


def face_at(landmarks):
    return Face((50, 50, 250, 250), 1.0, landmarks, eye_centres(landmarks))


def test_probabilities_are_averaged(loaded):
    frame = np.random.default_rng(1).integers(0, 256, (300, 300, 3), np.uint8)
    faces = [face_at(np.random.default_rng(seed).uniform(50, 250, (68, 2))) for seed in (1, 2)]
    first, second, both = (Track(1, [], detections=count) for count in (1, 1, 2))
    for track, face in zip((first, second, both, both), [*faces, *faces]):
        tracks.run_models([(track, face)], frame, loaded.models)
    p_male = tracks.predictions_table([first, second, both], loaded.models)["p_male"]
    assert p_male[2] == pytest.approx(p_male[:2].mean(), abs=1e-4)


@pytest.mark.slow
def test_a_video_in_which_nobody_is_tracked(tmp_path, street, slow, loaded, monkeypatch):
    """A person stands in the first two frames only. The tables are empty, and the page says so beside the video."""
    film = tmp_path / "empty.mp4"
    visible = max(range(len(street[2])), key=lambda i: sum(box is not None for box in street[2][i]))
    write(film, [street[1][visible]] * 2 + [np.full_like(street[1][0], 128)] * 20)
    empty = video.track_people(film, loaded, progress=False)
    for nobody, people in zip(empty, slow):
        assert nobody.empty and len(people)
        pd.testing.assert_series_equal(nobody.dtypes, people.dtypes)
    with video.open_video(film) as (facts, frames):
        pictures = list(frames)
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    copy, answer = demo.predict_video(str(film), loaded)
    assert "nobody was tracked" in answer.lower() and "<table" not in answer
    with video.open_video(copy) as (copied, frames):
        copies = list(frames)
    assert len(copies) == len(pictures) == 22 and copied["size"] == facts["size"] and copied["fps"] == facts["fps"]
    assert max(np.abs(one.astype(int) - other).mean() for one, other in zip(pictures, copies)) < 2


@pytest.mark.parametrize(
    "content",
    [b"", b"no video" * 50, b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n/etc/passwd\n#EXT-X-ENDLIST\n",
     b"ffconcat version 1.0\nfile /etc/passwd\n", np.random.default_rng(1).bytes(5000)],
    ids=["empty", "text", "playlist", "concat", "random"],
)  # fmt: skip
def test_files_that_are_no_video(tmp_path, loaded, content):
    (tmp_path / "a.mp4").write_bytes(content)
    with pytest.raises(video.UnreadableVideo, match="damaged or not a video in a supported format|has no frames"):
        video.process_video(tmp_path / "a.mp4", tmp_path / "out" / "a.mp4", loaded, progress=False)
    assert not list((tmp_path / "out").iterdir())


def test_a_video_that_ends_early_is_read_as_far_as_it_goes(tmp_path, street, loaded):
    file = tmp_path / "cut.mkv"
    write(file, street[1][:30])
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * 0.8)])
    tracked = video.track_people(file, loaded, progress=False)
    assert 5 < tracked.frames["frame"].max() < 30


@pytest.mark.parametrize(("rate", "seconds"), [(120, 0.9), (9.5, 2), (1, 3)])
def test_time_is_the_videos_own_at_any_rate(tmp_path, street, rate, seconds):
    write(tmp_path / "a.mp4", street[1][: round(rate * seconds)], rate)
    with video.open_video(tmp_path / "a.mp4") as (facts, frames):
        count = sum(1 for _ in frames)
    assert facts["fps"] == pytest.approx(min(rate, video.MAX_FPS), rel=0.01)
    assert count / facts["fps"] == pytest.approx(seconds, abs=3 / facts["fps"])


def test_time_is_the_videos_own_where_frames_come_unevenly(tmp_path, street):
    """Like a phone's recording: one second at 30 frames a second, then one frame that stays for three."""
    write(tmp_path / "even.mp4", street[1][:31], 30)
    uneven = ["-vf", "setpts='if(gte(N,30),4/TB,N/30/TB)'", "-fps_mode", "vfr", "-enc_time_base", "1/1000"]
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-i", tmp_path / "even.mp4", *uneven, tmp_path / "uneven.mp4"]
    subprocess.run(command, check=True, capture_output=True)
    with video.open_video(tmp_path / "uneven.mp4") as (facts, frames):
        count = sum(1 for _ in frames)
    assert count / facts["fps"] == pytest.approx(4, abs=0.3)


def test_other_errors_are_not_attributed_to_the_video(street):
    with pytest.raises(OSError, match="No space left"), video.open_video(street[0]) as (_, frames):
        next(frames)
        raise OSError(28, "No space left")


def test_videos_of_one_name_have_copies_of_their_own_and_no_video_is_replaced(tmp_path):
    names = ["a/film.mp4", "b/film.mov", "b/clip.mov", "c/clip.mp4"]
    paths = [tmp_path / name for name in names]
    for path in paths:
        path.parent.mkdir(exist_ok=True)
        path.touch()
    copies = predictor.reserve_copies(paths, tmp_path / "out")
    assert [copy.name for copy in copies.values()] == ["film.mp4", "film-2.mp4", "clip.mp4", "clip-2.mp4"]
    for some, folder in ((paths[2:], "c"), (paths[:1], "a")):
        with pytest.raises(ValueError, match="must not replace"):
            predictor.reserve_copies(some, tmp_path / folder)
    for name in ("clip.mp4", "clip-people.csv"):  # not named in the command
        (tmp_path / "d").mkdir(exist_ok=True)
        (tmp_path / "d" / name).touch()
        with pytest.raises(ValueError, match=f"must not replace .*{name}"):
            predictor.reserve_copies(paths[2:3], tmp_path / "d")
        (tmp_path / "d" / name).unlink()
    for _ in range(2):  # its own of before are
        target = predictor.reserve_copies(paths[2:3], tmp_path / "d")[paths[2]]
        for name in ("clip.mp4", "clip-people.csv"):
            target.with_name(name).touch()


def test_mistakes_are_told(tmp_path, standins, street, capfd):
    models = ["--gender-model", str(standins.gender), "--age-model", str(standins.age)]
    film = str(street[0].absolute())
    assert main([str(tmp_path / "missing.mp4"), *models]) == 2 and "missing.mp4: no such file" in capfd.readouterr().err
    for arguments, said in (
        ([film, "photo.jpg"], "run the command twice"),
        ([film, "--csv", "x.csv"], "name a folder for them with --annotate"),
        ([film, "--fallback", "whole-photo"], "--fallback is for photos"),
        ([film, "--annotate", str(street[0].parent)], "must not replace"),
        (["--camera", "7"], "camera 7 sends no image: there is no such camera"),
        (["--camera", "/dev/video7"], "camera /dev/video7 sends no image: there is no such camera"),
        (["--camera", "film.mp4"], "a camera is a number such as 0"),
        (["--camera", "0", "a.jpg"], "--camera takes no files"),
    ):
        with pytest.raises((ValueError, OSError), match=said):
            main([*arguments, *models])


def test_the_cameras_view_settles(street, loaded):
    """The frames of the film replace those of a camera."""
    views = list(camera.annotate_frames(iter(street[1][:20]), loaded))
    assert all(view.shape == (480, 640, 3) for view in views)
    drawn = [np.abs(view.astype(int) - frame).max(axis=2) > 40 for view, frame in zip(views, street[1])]
    assert drawn[0].sum() == 0 and drawn[-1].sum() > 1000


class NetworkCamera(http.server.SimpleHTTPRequestHandler):
    """A stream of JPEGs under /live, with a password under /locked; files of `directory` under their names."""

    pictures: list[bytes] = []
    seconds = 0.02  # between two pictures

    def log_message(self, *_):
        pass

    def do_GET(self):
        if not self.path.startswith(("/live", "/locked")):
            return super().do_GET()
        if self.path.startswith("/locked") and self.headers.get("Authorization") != "Basic bWU6czNjcmV0":  # me:s3cret
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="camera"')
            return self.end_headers()
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=next")
        self.end_headers()
        for picture in self.pictures:
            self.wfile.write(b"--next\r\nContent-Type: image/jpeg\r\n\r\n" + picture + b"\r\n")
            time.sleep(self.seconds)


@pytest.fixture(scope="module")
def network_camera(tmp_path_factory):
    """Host and port of a camera whose pictures become lighter, from 0 in steps of 4; and the folder of its files."""
    folder = tmp_path_factory.mktemp("served")
    pictures = [np.full((120, 160, 3), 4 * i, np.uint8) for i in range(60)]
    NetworkCamera.pictures = [cv2.imencode(".jpg", picture)[1].tobytes() for picture in pictures]
    write(folder / "film.mp4", pictures)
    handler = functools.partial(NetworkCamera, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.handle_error = lambda *_: None  # a client that has ended is no error
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize("place", ["{}/live", "me:s3cret@{}/locked", "{}/film.mp4"])
def test_a_stream_is_read_from_its_address(network_camera, place):
    with camera.open_camera(f"http://{place.format(network_camera)}") as frames:
        pictures = list(frames)
    assert pictures[0].shape == (120, 160, 3) and pictures[0].dtype == np.uint8
    means = [picture.mean() for picture in pictures]
    assert means[0] < 8 and means == sorted(means) and means[-1] > 220, "in order, from the first to the last"


def test_of_a_stream_the_newest_picture_is_shown(network_camera):
    """After half a second, the reader gets the newest picture, not the next one."""
    with camera.open_camera(f"http://{network_camera}/live") as frames:
        next(frames)
        time.sleep(0.5)
        assert next(frames).mean() > 4 * 10


@pytest.mark.parametrize("place", ["silent", "127.0.0.1:1", "{}/gone", "{}/locked", "{}/live/../../etc"])
def test_an_address_without_a_stream_is_one_sentence_without_the_password(network_camera, capfd, monkeypatch, place):
    monkeypatch.setattr(camera, "TIMEOUT", 1)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes calls, and never answers
        place = place.replace("silent", f"127.0.0.1:{silent.getsockname()[1]}").format(network_camera)
        for scheme in ("http", "rtsp"):
            start = time.monotonic()
            with (
                pytest.raises(camera.NoCamera, match="sends no image") as caught,
                camera.open_camera(f"{scheme}://somebody:hush/hush@{place}?password=hush"),
            ):
                pass
            assert time.monotonic() - start < 5
            assert place.split("/")[0] in str(caught.value)
            assert not any(word in str(caught.value) for word in ("hush", "somebody"))
    printed = capfd.readouterr()
    assert printed.out + printed.err == ""


@pytest.mark.parametrize("source", ["", "-1", "photo.jpg", "ftp://me:hush@host/a", "rtsp:/host", "file:///etc/passwd"])
def test_what_no_camera_can_be_is_refused(source):
    with pytest.raises(ValueError, match="a camera is a number") as caught, camera.open_camera(source):
        pass
    assert "hush" not in str(caught.value)


def test_no_window_where_there_is_no_screen(monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    with pytest.raises(camera.NoCamera, match="no window can be opened"):
        camera.show(iter(()), None)
