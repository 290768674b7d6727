"""A page to try the models in a browser, on this machine: `make demo`.

    python -m src.predict.demo [--host 127.0.0.1] [--port 7860] [--gender-model FOLDER] [--age-model FOLDER]

It takes a photo, a picture of the camera or a video, and shows the annotated result, the table and the doubt. Uploads are
limited and deleted as soon as they are answered, those that never are within some ten minutes; when the page ends nothing is
kept, and nothing is sent anywhere else.

Before it: `looking`, `answers`, `video`. After it: nothing.
"""

import argparse
import base64
import contextlib
import html
import json
import os
import signal
import socket
import sys
import tempfile
import threading
from collections import Counter
from pathlib import Path

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

import cv2
import fastapi
import gradio as gr
import numpy as np
import pandas as pd
import uvicorn
from PIL import Image

from src.config import IMAGE_SUFFIXES, MODELS, VIDEO_SUFFIXES
from src.faces.detect import VIDEO_DETECTOR
from src.faces.image_io import UnreadablePhoto, read_photo
from src.predict import video
from src.predict.annotate import annotate
from src.predict.predictor import Predictor

MEGABYTES = 50  # of an upload
PIXELS = 50_000_000  # of a photo
SECONDS = 60  # of a video
SHOWN = 1280  # pixels: the longest side of the annotated picture
TITLE = "Age and gender from face photos"
INTRO = (
    "What a face *looks* like to the models, with their doubt. It is not who someone is, and no decision about a person "
    f"should rest on it. Up to {MEGABYTES} MB and {PIXELS // 1_000_000} megapixels; videos up to {SECONDS} seconds. Uploads "
    "stay on the machine that this page runs on, and are deleted once they are answered."
)
# Nothing on the page may call another machine.
POLICY = (
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'"
)
STYLE = """
.gradio-container {max-width: 900px !important; margin: 0 auto}
.answer {width: 0; min-width: 100%; overflow-x: auto}
.answer img {max-width: 100%; height: auto; border-radius: 6px}
.answer table {border: none; border-collapse: collapse; margin-top: 10px}
.answer td, .answer th {padding: 4px 8px; text-align: left; border: none; border-bottom: 1px solid #ccc}
footer {display: none !important}
"""
working = threading.Lock()  # dlib and the networks take one question at a time; the others wait their turn


class Refused(ValueError):
    """What is not answered; its text says why."""


def answer_photo(upload: str | None, predictor: Predictor) -> str:
    """The page's answer, as HTML, to an uploaded photo's path, which is deleted."""
    if not upload:
        return ""
    with uploads.answering(upload), working:
        try:
            photo = read_photo(upload, PIXELS)
        except UnreadablePhoto as error:
            return told(f"This file could not be read: {error}.")
        return of_pixels(photo, predictor)


def of_pixels(photo: np.ndarray, predictor: Predictor) -> str:
    """The answer as HTML for one photo: uint8 (height, width, 3), RGB."""
    table = predictor.predict(photo, progress=False)
    if (table["status"] == "no_face").all():
        words = "No face was found. One that is larger, from the front and well lit is easier to find."
    else:
        words = f"{len(table)} face{'s were' if len(table) > 1 else ' was'} found."
    return f'<div class="answer">{told(words)}{picture_of(annotate(photo, table))}{table_of(table)}</div>'


def answer_video(upload: str | None, predictor: Predictor) -> tuple[str | None, str]:
    """The annotated video's path, and the table of people as HTML; the upload is deleted."""
    if not upload:
        return None, ""
    with uploads.answering(upload), working:
        try:
            with video.open_video(upload) as (facts, _):
                if facts["duration"] > SECONDS:
                    raise Refused(f"videos of up to {SECONDS} seconds are taken, got {facts['duration']:.1f}")
            watched = video.track_people(
                upload, predictor, progress=False, seconds=SECONDS
            )  # some don't say how long they are
            target = Path(tempfile.mkdtemp(dir=os.environ["GRADIO_TEMP_DIR"]), "annotated.mp4")
            video.draw(upload, watched, target, progress=False, seconds=SECONDS)
        except video.UnreadableVideo:
            return None, told("This file could not be read: it is damaged, or no video in a format that can be read.")
        except Refused as error:
            return None, told(f"{error}.")
    words = watched.summary.capitalize() + ("; the answers are means over all looks." if len(watched.people) else ".")
    table = table_of(watched.people.assign(face=watched.people["person"]))
    return str(target), f'<div class="answer">{told(words)}{table}</div>'


def told(words: str) -> str:
    """A paragraph of HTML; what stands in the words as markup is shown, not obeyed."""
    return f"<p>{html.escape(words)}</p>"


def picture_of(pixels: np.ndarray) -> str:
    """The picture inside the page itself, so that no file of it is needed."""
    small = Image.fromarray(pixels)
    small.thumbnail((SHOWN, SHOWN))
    coded = cv2.imencode(".jpg", cv2.cvtColor(np.asarray(small), cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 88])[1]
    return f'<img alt="the photo with answers" src="data:image/jpeg;base64,{base64.b64encode(coded).decode()}">'


def table_of(table: pd.DataFrame) -> str:
    """Each face's answers and their doubt."""
    rows = []
    for row in table[table["face"].notna()].to_dict("records"):
        sure = max(row["p_male"], 1 - row["p_male"])
        span = "" if pd.isna(row["age_interval_low"]) else f"{row['age_interval_low']:.0f}–{row['age_interval_high']:.0f}"
        doubt = "" if pd.isna(row["message"]) else row["message"]
        rows.append((row["face"], f"{row['gender']} ({sure:.0%})", f"{row['age_group']} ({row['age_group_probability']:.0%})",
                     f"{row['age_years']:.0f}", span, doubt))  # fmt: skip
    if not rows:
        return ""
    names = ("", "gender", "age group", "years", "90% interval", "doubt")
    head = "".join(f"<th>{name}</th>" for name in names)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


class Uploads:
    """The files that were uploaded; each is deleted once all who sent it are answered.

    Gradio keeps equal uploads as one file, so that one may come while another is answered: askers are counted from the end
    of their upload on, and nothing is deleted while an upload is coming in.
    """

    def __init__(self):
        self.lock, self.coming, self.asking = threading.Lock(), 0, Counter()

    @contextlib.contextmanager
    def arriving(self):
        """While an upload comes in; gives a list for the paths that it was written to."""
        with self.lock:
            self.coming += 1
        paths: list[str] = []
        try:
            yield paths
        finally:
            with self.lock:
                self.coming -= 1
                self.asking.update(paths)
                self._sweep()

    @contextlib.contextmanager
    def answering(self, path: str):
        """While the one who sent this file is answered."""
        with self.lock:
            self.asking[path] = max(1, self.asking[path])  # one that came in another way was not counted before
        try:
            yield
        finally:
            with self.lock:
                self.asking[path] -= 1
                self._sweep()

    def _sweep(self) -> None:
        for path in [path for path, count in self.asking.items() if not count and not self.coming]:
            del self.asking[path]
            with contextlib.suppress(OSError):
                Path(path).unlink()
                Path(path).parent.rmdir()


uploads = Uploads()


def page(predictor: Predictor) -> gr.Blocks:
    """The page with its three tabs, not yet served."""
    # What a browser still loads is deleted when it is ten minutes old.
    at_once = {"concurrency_id": "models", "concurrency_limit": 32}  # which then wait for `working`
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(60, 600)) as blocks:
        gr.Markdown(f"# {TITLE}\n{INTRO}")
        with gr.Tab("Photo"):
            photo = gr.File(label="A photo", file_types=list(IMAGE_SUFFIXES), elem_id="photo")
            photo_said = gr.HTML(elem_id="photo-answer")
            photo.upload(lambda path: answer_photo(path, predictor), photo, photo_said, api_name="photo", **at_once)
        with gr.Tab("Camera"):
            # With an image mode Gradio would hand on a copy, and the picture itself would stay.
            camera = gr.Image(label="Camera", sources=["webcam"], type="filepath", image_mode=None, elem_id="camera")
            camera_said = gr.HTML(elem_id="camera-answer")
            camera.input(lambda path: answer_photo(path, predictor), camera, camera_said, api_name="camera", **at_once)
        with gr.Tab("Video"):
            film = gr.File(label="A video", file_types=list(VIDEO_SUFFIXES), elem_id="video")
            copy, people = gr.Video(label="Annotated", elem_id="copy"), gr.HTML(elem_id="video-answer")
            film.upload(lambda path: answer_video(path, predictor), film, [copy, people], api_name="video", **at_once)
    return blocks.queue(max_size=64)


def application(predictor: Predictor) -> fastapi.FastAPI:
    """The page as a web application."""
    app = fastapi.FastAPI()

    @app.middleware("http")
    async def with_policy(request, call_next):
        response = await call_next(request)
        response.headers["Content-Security-Policy"] = POLICY
        return response

    @app.middleware("http")
    async def counted(request, call_next):
        if request.method != "POST" or not request.url.path.endswith("/upload"):
            return await call_next(request)
        with uploads.arriving() as paths:
            response = await call_next(request)
            body = b"".join([part async for part in response.body_iterator])
            if response.status_code == 200:
                paths += json.loads(body)  # Gradio answers with the list of paths
        return fastapi.Response(body, response.status_code, dict(response.headers))

    fonts = {"font": ["system-ui", "sans-serif"], "font_mono": ["monospace"]}  # the reader's own: none is loaded
    return gr.mount_gradio_app(
        app, page(predictor), path="/", footer_links=[], run_history=False, max_file_size=MEGABYTES * 2**20, ssr_mode=False,
        enable_monitoring=False, show_error=False, theme=gr.themes.Default(**fonts), css=STYLE,
    )  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m src.predict.demo", description="A page to try the models in a browser.")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 lets other machines in (default: %(default)s)")
    parser.add_argument("--port", type=int, default=7860, help="0 takes a free one (default: %(default)s)")
    parser.add_argument("--gender-model", type=Path, default=MODELS / "gender", metavar="FOLDER")
    parser.add_argument("--age-model", type=Path, default=MODELS / "age", metavar="FOLDER")
    options = parser.parse_args()
    for name in ("SIGTERM", "SIGHUP"):  # ended by another program, or its terminal closed: uploads are deleted then too
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), lambda *_: sys.exit(0))
    try:
        with tempfile.TemporaryDirectory(prefix="age-and-gender-") as folder:
            os.environ["GRADIO_TEMP_DIR"] = folder  # gone with everything in it when the page ends
            with socket.socket(type=socket.SOCK_STREAM) as taken:  # asked here, for an error in one sentence
                taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                taken.bind((options.host, options.port))
                app = application(Predictor(options.gender_model, options.age_model, detector=VIDEO_DETECTOR))
                print(f"the page is at http://{options.host}:{taken.getsockname()[1]} (Ctrl-C ends it)", flush=True)
                server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
                server.run(sockets=[taken])
    except (ValueError, OSError, OverflowError) as error:  # the last of a port that cannot be
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        pass
    return 0


if __name__ == "__main__":
    sys.exit(main())
