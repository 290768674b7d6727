"""The page in a real browser: photo, bad file, no face, video, a phone's screen; many at once; nothing kept or sent."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gradio_client
import numpy as np
import pytest
from PIL import Image
from skimage.data import astronaut

from src.config import ROOT
from src.predict import demo, video
from src.predict.predictor import Predictor


def start(standins, folder):
    """The process of the page, its address, and the folder that it keeps uploads in."""
    models = ["--gender-model", str(standins.gender), "--age-model", str(standins.age)]
    process = subprocess.Popen(
        [sys.executable, "-m", "src.predict.demo", "--port", "0", *models],
        cwd=ROOT, stdout=subprocess.PIPE, text=True, env=os.environ | {"TMPDIR": str(folder)},
    )  # fmt: skip
    return process, re.search(r"http://127\.0\.0\.1:\d+", process.stdout.readline())[0], folder


@pytest.fixture(scope="module")
def page(standins, tmp_path_factory):
    """The page's address and the folder that it keeps uploads in while they are processed."""
    process, address, folder = start(standins, tmp_path_factory.mktemp("temporary"))
    yield address, folder
    process.terminate()
    process.wait()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    Image.fromarray(astronaut()).save(folder / "face.jpg")
    Image.fromarray(np.full((300, 400, 3), 120, np.uint8)).save(folder / "wall.png")
    (folder / "broken.jpg").write_bytes((folder / "face.jpg").read_bytes()[:5000])
    (folder / "text.jpg").write_text("<script>alert(1)</script>")
    Image.new("1", (9000, 9000)).save(folder / "large.png")
    picture = np.asarray(Image.fromarray(astronaut()).resize((320, 320)))
    video.write_video((np.roll(picture, shift, axis=1) for shift in range(15)), (320, 320), 10, folder / "film.mp4")
    return folder


@pytest.fixture
def browser(request, tmp_path):
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("needs Chromium and its driver: apt-get install chromium chromium-driver")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", f"--user-data-dir={tmp_path}/profile",
                     "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"):  # fmt: skip
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    width, height = getattr(request, "param", (1200, 900))
    options.add_experimental_option("mobileEmulation", {"deviceMetrics": {"width": width, "height": height, "pixelRatio": 1}})
    opened = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield opened
    opened.quit()


def found(browser, selector, text=None):
    """The element, as soon as it is there and says the text; a page that never does fails after two minutes."""
    end = time.monotonic() + 120
    while time.monotonic() < end:
        elements = browser.find_elements("css selector", selector)
        if elements and (text is None or any(text in element.text for element in elements)):
            return elements[0]
        time.sleep(0.1)
    raise AssertionError(f"{selector} never said {text!r}: {browser.find_element('css selector', 'body').text[:500]}")


def open_tab(browser, name):
    found(browser, "button[role=tab]", name)
    next(tab for tab in browser.find_elements("css selector", "button[role=tab]") if tab.text == name).click()


def upload(browser, field, file):
    found(browser, f"#{field} input[type=file]").send_keys(str(file))


def kept(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and path.suffix in (".jpg", ".png", ".mp4")]


@pytest.mark.slow
@pytest.mark.parametrize("browser", [(1200, 900), (375, 700)], ids=["wide", "phone"], indirect=True)
def test_a_photo_is_answered(page, files, browser):
    browser.get(page[0])
    upload(browser, "photo", files / "face.jpg")
    found(browser, "#photo-result", "1 face was found")
    table = found(browser, "#photo-result table").text
    assert re.search(r"(fe)?male \(\d+%\)", table) and re.search(r"\d+-\d+ \(\d+%\)", table) and re.search(r"\d+–\d+", table)
    picture = found(browser, "#photo-result img")
    assert picture.get_property("naturalWidth") == 512
    width = browser.execute_script("return [document.documentElement.scrollWidth, window.innerWidth]")
    assert width[0] <= width[1] in (1200, 375), "nothing is wider than the screen, and a phone need not zoom out"
    assert picture.rect["x"] >= 0 and picture.rect["x"] + picture.rect["width"] <= width[1]
    if folder := os.environ.get("SCREENSHOTS"):
        browser.save_screenshot(f"{folder}/demo-{width[1]}.png")
    called = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = {
        one["params"]["requestId"]: one["params"]["request"]["url"]
        for one in called
        if one["method"] == "Network.requestWillBeSent"
    }
    failed = [one["params"] for one in called if one["method"] == "Network.loadingFailed"]
    blocked = {one["requestId"] for one in failed if one.get("blockedReason") == "csp"}
    outside = {name: url for name, url in sent.items() if not url.startswith((page[0], "data:", "blob:", "chrome:"))}
    assert set(outside) <= blocked, f"another machine is asked: {outside}"
    assert not kept(page[1])


@pytest.mark.slow
def test_what_cannot_be_answered_is_told_kindly(page, files, browser):
    browser.get(page[0])
    for name, said in (
        ("broken.jpg", "This file could not be read: damaged image"),
        ("wall.png", "No face was found. A larger, frontal"),
        ("text.jpg", "not an image in a supported format"),
        ("large.png", "at most 50,000,000 pixels are supported, got 9,000 x 9,000"),
    ):
        browser.refresh()
        upload(browser, "photo", files / name)
        found(browser, "#photo-result", said)
    assert not kept(page[1])


@pytest.mark.slow
def test_a_picture_of_the_camera_is_answered_and_gone(page, browser):
    from selenium.webdriver.support.ui import WebDriverWait

    browser.get(page[0])
    open_tab(browser, "Camera")
    found(browser, "#camera button:not(.hidden)", "Access Webcam").click()
    capture = found(browser, "#camera button[aria-label='capture photo']")
    WebDriverWait(browser, 60).until(  # Chromium's camera shows a test picture, after a moment
        lambda page: page.execute_script("return (document.querySelector('#camera video') || {}).readyState === 4")
    )
    capture.click()
    found(browser, "#camera-result", "No face was found")
    assert not kept(page[1])


@pytest.mark.slow
def test_a_video_is_answered_with_one_that_the_browser_plays(page, files, browser):
    browser.get(page[0])
    open_tab(browser, "Video")
    upload(browser, "video", files / "film.mp4")
    found(browser, "#video-result", "1 person was tracked")
    copy = found(browser, "#copy video")
    end = time.monotonic() + 60
    while not copy.get_property("videoWidth") and time.monotonic() < end:
        time.sleep(0.1)
    assert copy.get_property("videoWidth") == 320, "Chromium plays it"
    assert [path.name for path in kept(page[1])] == ["annotated.mp4"] * len(kept(page[1]))


@pytest.mark.slow
def test_twenty_uploads_at_once_are_all_answered(page, files):
    client = gradio_client.Client(page[0], verbose=False, httpx_kwargs={"timeout": None})
    before = kept(page[1])  # a video's annotated copy, which its browser may still load
    names = ["face.jpg", "wall.png", "broken.jpg", "text.jpg"] * 5
    said = dict(zip(names, ["1 face was found", "No face was found", "could not be read", "not an image"]))

    def ask(name: str) -> str:
        return client.predict(gradio_client.handle_file(files / name), api_name="/photo")

    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(ask, names))
    assert [(name, answer) for name, answer in zip(names, answers) if said[name] not in answer] == []
    assert "1 face was found" in ask("face.jpg")
    assert kept(page[1]) == before


def test_the_page_shows_the_predictions_of_the_predictor(standins, files, tmp_path, monkeypatch):
    predictor = Predictor(standins.gender, standins.age)
    (row,) = predictor.predict(files / "face.jpg", progress=False).to_dict("records")
    shutil.copy(files / "face.jpg", tmp_path)
    said = demo.predict_photo(str(tmp_path / "face.jpg"), predictor)
    assert "1 face was found" in said and not (tmp_path / "face.jpg").exists()
    expected = [f"{row['gender']} ({max(row['p_male'], 1 - row['p_male']):.0%})", f"{row['age_years']:.0f}",
                f"{row['age_group']} ({row['age_group_probability']:.0%})"]  # fmt: skip
    assert all(f"<td>{words}</td>" in said for words in expected)
    monkeypatch.setattr(demo, "MAX_SECONDS", 1)  # of 1.5 seconds
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(files))
    upload = tmp_path / "upload" / "film.mp4"
    upload.parent.mkdir(parents=True)
    shutil.copy(files / "film.mp4", upload)
    copy, said = demo.predict_video(str(upload), predictor)
    assert "1 person was tracked" in said and not upload.exists()
    with video.open_video(copy) as (properties, _):
        assert properties["duration"] == pytest.approx(1, abs=0.15)


@pytest.mark.slow
def test_uploads_that_are_too_large_are_refused(page, tmp_path):
    (tmp_path / "large.jpg").write_bytes(bytes(51 * 2**20))
    client = gradio_client.Client(page[0], verbose=False, httpx_kwargs={"timeout": None})
    with pytest.raises(Exception, match="(?i)413|too large|exceeds|size"):
        client.predict(gradio_client.handle_file(tmp_path / "large.jpg"), api_name="/photo")


def test_equal_uploads_are_deleted_after_the_last_use(tmp_path):
    """Gradio stores them as one file."""
    uploads, file = demo._Uploads(), tmp_path / "folder" / "face.jpg"
    file.parent.mkdir()
    file.touch()
    for _ in range(2):
        with uploads.receive() as paths:
            paths.append(str(file))
    with uploads.use(str(file)):
        pass
    assert file.exists()
    with uploads.receive(), uploads.use(str(file)):
        pass
    assert not file.parent.exists()


def test_a_port_that_cannot_be_used(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["demo", "--port", "70000"])
    with pytest.raises(SystemExit):
        demo.main()
    assert "--port must be from 0 to 65535, got 70000" in capsys.readouterr().err
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setattr(sys, "argv", ["demo", "--port", str(taken.getsockname()[1])])
        with pytest.raises(OSError, match="in use"):
            demo.main()


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows has no SIGHUP")
@pytest.mark.slow
def test_a_closed_terminal_leaves_nothing(standins, tmp_path):
    process, _, _ = start(standins, tmp_path)
    assert len(list(tmp_path.glob("age-and-gender-*"))) == 1
    process.send_signal(signal.SIGHUP)
    process.wait(60)
    assert not list(tmp_path.glob("age-and-gender-*"))
