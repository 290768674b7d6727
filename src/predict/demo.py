"""A page to try the models in a browser on this machine: `make demo` or `python -m src.predict.demo`.

The page shows predictions for a photo, a camera image or a short video. An upload is deleted as soon as its predictions are
shown. Nothing is kept when the page ends, and nothing is sent to another machine.
"""

import argparse
import base64
import contextlib
import html
import io
import json
import os
import socket
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

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
from src.predict.predictor import Predictor, summarise
from src.processes import run_command

MAX_MEGABYTES = 50  # maximum size of an upload
MAX_UPLOAD_PIXELS = 50_000_000  # maximum size of a photo
MAX_SECONDS = 60  # processed part of a video
SHOWN_SIDE = 1280  # pixels; longest side of the annotated photo on the page
TITLE = "Age and gender from face photos"
INTRODUCTION = (
    "The models estimate the apparent age and gender of a face, with their uncertainty. They do not tell who someone is, and "
    f"no decision about a person should rest on them. Up to {MAX_MEGABYTES} MB and {MAX_UPLOAD_PIXELS // 1_000_000} "
    f"megapixels; the first {MAX_SECONDS} seconds of a video. Uploads stay on the machine that runs this page and are "
    "deleted after use."
)
POLICY = (  # prevents the browser from loading anything from other machines
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'"
)
STYLE = """
.gradio-container {max-width: 900px !important; margin: 0 auto}
.result {width: 0; min-width: 100%; overflow-x: auto}
.result img {max-width: 100%; height: auto}
.result td, .result th {padding: 4px 8px; text-align: left}
footer {display: none !important}
"""


class _Uploads:
    """Deletes each upload after its last request. Requests are counted by path, because Gradio stores equal uploads once."""

    def __init__(self):
        self._lock, self._incoming, self._requests = threading.Lock(), 0, Counter()

    @contextlib.contextmanager
    def receive(self) -> Iterator[list[str]]:
        """Surrounds an upload, during which nothing is deleted. The caller adds the paths of the files to the list."""
        with self._lock:
            self._incoming += 1
        paths: list[str] = []
        try:
            yield paths
        finally:
            self._update(-1, dict.fromkeys(paths, 1))

    @contextlib.contextmanager
    def use(self, path: str) -> Iterator[None]:
        """Surrounds the processing of an upload."""
        try:
            yield
        finally:
            self._update(0, {path: -1})

    def _update(self, incoming: int, requests: dict[str, int]) -> None:
        with self._lock:
            self._incoming += incoming
            self._requests.update(requests)
            for path in [path for path, count in self._requests.items() if count <= 0 and not self._incoming]:
                del self._requests[path]
                with contextlib.suppress(OSError):
                    Path(path).unlink()
                    Path(path).parent.rmdir()


_uploads = _Uploads()
_models_lock = threading.Lock()  # the detector and the models process one request at a time


def predict_photo(upload: str | None, predictor: Predictor) -> str:
    """Predicts for an uploaded photo and deletes it. Returns HTML, empty without an upload."""
    if not upload:
        return ""
    with _uploads.use(upload), _models_lock:
        try:
            photo = read_photo(upload, MAX_UPLOAD_PIXELS)
        except UnreadablePhoto as error:
            return _paragraph(f"This file could not be read: {error}.")
        table = predictor.predict(photo, progress=False).assign(photo=Path(upload).name)
    return f'<div class="result">{_paragraph(summarise(table))}{_image(annotate(photo, table))}{_table(table)}</div>'


def predict_video(upload: str, predictor: Predictor) -> tuple[str | None, str]:
    """Predicts for an uploaded video and deletes it. Returns the path of the annotated copy and HTML."""
    with _uploads.use(upload), _models_lock:
        try:
            tracked = video.track_people(upload, predictor, progress=False, seconds=MAX_SECONDS)
            target = Path(tempfile.mkdtemp(dir=os.environ["GRADIO_TEMP_DIR"]), "annotated.mp4")
            video.annotate_video(upload, tracked.frames, target, progress=False, seconds=MAX_SECONDS)
        except video.UnreadableVideo:
            return None, _paragraph("This file could not be read: it is damaged or not a video in a supported format.")
    table = tracked.people.rename(columns={"person": "face"})  # the column that `_table` shows
    return str(target), f'<div class="result">{_paragraph(tracked.summary.capitalize() + ".")}{_table(table)}</div>'


def _paragraph(text: str) -> str:
    return f"<p>{html.escape(text)}</p>"


def _image(pixels: np.ndarray) -> str:
    """Returns the image as part of the HTML, so that it needs no file."""
    image, jpeg = Image.fromarray(pixels), io.BytesIO()
    image.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
    image.save(jpeg, "JPEG", quality=88)
    return f'<img alt="the photo with predictions" src="data:image/jpeg;base64,{base64.b64encode(jpeg.getvalue()).decode()}">'


def _table(table: pd.DataFrame) -> str:
    """Returns the predictions and their uncertainty, one row per face."""
    table = table[table["face"].notna()]
    if table.empty:
        return ""
    certainty = np.maximum(table["p_male"], 1 - table["p_male"])
    interval = table["age_interval_low"].astype("string") + "–" + table["age_interval_high"].astype("string")
    columns = {
        "": table["face"],
        "gender": table["gender"] + certainty.map(" ({:.0%})".format),
        "age group": table["age_group"] + table["age_group_probability"].map(" ({:.0%})".format),
        "years": table["age_years"].map("{:.0f}".format),
        "90% interval": interval.fillna(""),
        "uncertainty": table["message"].fillna(""),
    }
    return pd.DataFrame(columns).to_html(index=False, border=0)


def page(predictor: Predictor) -> gr.Blocks:
    """Builds the page with its three tabs; their predictions are also the API endpoints /photo, /camera and /video."""
    queue = {"concurrency_id": "models", "concurrency_limit": 32}  # `_models_lock` lets one of them run at a time
    # Gradio deletes the annotated videos and unused uploads when they are ten minutes old.
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(60, 600)) as blocks:
        gr.Markdown(f"# {TITLE}\n{INTRODUCTION}")
        with gr.Tab("Photo"):
            photo = gr.File(label="A photo", file_types=list(IMAGE_SUFFIXES), elem_id="photo")
            result = gr.HTML(elem_id="photo-result")
            photo.upload(lambda path: predict_photo(path, predictor), photo, result, api_name="photo", **queue)
        with gr.Tab("Camera"):
            # With an image mode, Gradio would pass a copy and keep the upload.
            camera = gr.Image(label="Camera", sources=["webcam"], type="filepath", image_mode=None, elem_id="camera")
            result = gr.HTML(elem_id="camera-result")
            camera.input(lambda path: predict_photo(path, predictor), camera, result, api_name="camera", **queue)
        with gr.Tab("Video"):
            film = gr.File(label="A video", file_types=list(VIDEO_SUFFIXES), elem_id="video")
            copy, result = gr.Video(label="Annotated", elem_id="copy"), gr.HTML(elem_id="video-result")
            film.upload(lambda path: predict_video(path, predictor), film, [copy, result], api_name="video", **queue)
    return blocks.queue(max_size=64)


def application(predictor: Predictor) -> fastapi.FastAPI:
    """Builds the web application that serves the page."""
    app = fastapi.FastAPI()

    @app.middleware("http")
    async def handle(request, call_next):
        if request.method == "POST" and request.url.path.endswith("/upload"):
            with _uploads.receive() as paths:
                response = await call_next(request)
                body = b"".join([part async for part in response.body_iterator])
                if response.status_code == 200:
                    paths += json.loads(body)  # Gradio returns the list of paths
            response = fastapi.Response(body, response.status_code, dict(response.headers))
        else:
            response = await call_next(request)
        response.headers["Content-Security-Policy"] = POLICY
        return response

    fonts = {"font": ["system-ui", "sans-serif"], "font_mono": ["monospace"]}  # system fonts
    return gr.mount_gradio_app(
        app, page(predictor), path="/", footer_links=[], run_history=False, max_file_size=MAX_MEGABYTES * 2**20,
        ssr_mode=False, enable_monitoring=False, show_error=False, theme=gr.themes.Default(**fonts), css=STYLE,
    )  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m src.predict.demo", description="A page to try the models in a browser.")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 accepts other machines (default: %(default)s)")
    parser.add_argument("--port", type=int, default=7860, help="0 chooses a free one (default: %(default)s)")
    parser.add_argument("--gender-model", type=Path, default=MODELS / "gender", metavar="FOLDER")
    parser.add_argument("--age-model", type=Path, default=MODELS / "age", metavar="FOLDER")
    options = parser.parse_args()
    if not 0 <= options.port < 2**16:
        parser.error(f"--port must be from 0 to 65535, got {options.port}")
    with (
        tempfile.TemporaryDirectory(prefix="age-and-gender-") as folder,  # deleted when a signal ends the page
        socket.socket(type=socket.SOCK_STREAM) as listener,  # opened here, so that a port in use is a plain error
    ):
        os.environ["GRADIO_TEMP_DIR"] = folder
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((options.host, options.port))
        app = application(Predictor(options.gender_model, options.age_model, detector=VIDEO_DETECTOR))
        print(f"the page is at http://{options.host}:{listener.getsockname()[1]} (Ctrl-C ends it)", flush=True)
        uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listener])
    return 0


if __name__ == "__main__":
    run_command(main)
