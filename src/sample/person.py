"""Portraits of drawn people: a face from the face space, with painted hair, neck and clothes around it.

The face space ends at the brow, the ears and the chin, as the pictures that it was learnt from do. Lengths here are in
distances between the eyes, from the middle between them; colours are RGB, 0-255.

Before it: `face_space`. After it: `scenes`.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from src.sample.face_model import EYES, FaceSpace, relit

EYE_DISTANCE = EYES[1][0] - EYES[0][0]  # as a fraction of the face's width
WIDTH, EYE_LINE = 5.0, 2.35  # the painted frame, and how far down its eyes are
BUST = 5.4  # height of the frame, down to the shoulders
FACE_BOX = (-1.2, -0.85, 1.2, 1.8)  # left, top, right, bottom of the face in it
HAIR = {
    "black": (30, 25, 24), "dark brown": (56, 38, 28), "brown": (94, 64, 44),
    "fair": (176, 138, 90), "grey": (146, 143, 140), "white": (200, 198, 194),
}  # fmt: skip
CLOTHES = ((58, 76, 112), (122, 52, 58), (66, 98, 84), (92, 90, 96), (196, 186, 168), (150, 116, 72), (86, 70, 110))


@dataclass(frozen=True)
class Person:
    """Somebody who does not exist: what stays the same from photo to photo.

    face: uint8 (64, 64, 4), from the face space. age_group: 0-7, gender: female or male. hair: a name in HAIR.
    length: how far down the hair hangs. line: height of the hairline above the eyes. parting: where it is parted.
    """

    face: np.ndarray
    age_group: int
    gender: str
    hair: str
    length: float
    line: float
    parting: float


def new_person(space: FaceSpace, age_group: int, gender: str, rng: np.random.Generator) -> Person:
    """Draws somebody of an age group (0-7) and gender; hair follows age, gender and the tone of the skin."""
    face = space.face(space.draw(age_group, gender, rng))
    tone = face[5:40, 20:44, :3].mean()
    # Of the four colours of the young, those that go with the skin: light skin goes with fair hair, dark with black.
    young = list(HAIR)[:2] if tone < 125 else list(HAIR)[1:3] if tone < 160 else list(HAIR)[1:4]
    greying = np.interp(age_group, (4, 5, 6, 7), (0, 0.1, 0.4, 0.9))
    hair = str(rng.choice(["grey", "white"] if rng.random() < greying else young))
    long = gender == "female" and age_group > 0 and rng.random() < (0.85 if age_group < 6 else 0.5)
    length = rng.uniform(1.3, 2.7) if long else rng.uniform(0.0, 0.35)
    receding = gender == "male" and rng.random() < np.interp(age_group, (3, 4, 7), (0, 0.15, 0.6))
    line = rng.uniform(1.3, 1.6) if receding else rng.uniform(1.0, 1.3) if age_group == 0 else rng.uniform(0.75, 1.05)
    return Person(face, age_group, gender, hair, length, line, rng.uniform(-0.35, 0.35))


def draw_person(space: FaceSpace, person: Person, size: int, rng: np.random.Generator, height: float = BUST) -> np.ndarray:
    """A photo of somebody, cut off at `height`, in light and clothes of its own.

    size: pixels of the face's square of the face space. Gives uint8, (h, w, 4), RGB and opacity; `face_box` says where
    the face is in it.
    """
    unit = size * EYE_DISTANCE
    face = space.another_photo(person.face, rng)
    face[..., :3] = relit(face[..., :3], rng)
    # Brow and cheeks together: either alone may lie in a shadow or a highlight.
    patches = face[6:12, 24:40, :3].reshape(-1, 3), face[28:34, 16:48, :3].reshape(-1, 3)
    skin = np.mean([np.median(patch, axis=0) for patch in patches], axis=0, dtype=np.float32)
    hair = np.array(HAIR[person.hair], np.float32) * rng.uniform(0.9, 1.1)
    cloth = np.array(CLOTHES[rng.integers(len(CLOTHES))], np.float32) * rng.uniform(0.8, 1.15)
    easel = _Easel(unit, height, rng)
    if person.length > 1:
        easel.paint(_lock(easel, person.length), hair * 0.7, grain=0.07)
    easel.paint(easel.oval((0, 1.6), (0.78, 1.4), 0.05), skin * 0.8)
    body = easel.oval((0, 3.8), (2.3, 1.95), 0.05)
    waist = round((EYE_LINE + 3.8) * unit)
    body[waist:] = body[min(waist, len(body) - 1)]
    easel.paint(body, cloth, grain=0.02)
    easel.paint(easel.oval((0, 1.95), (0.72, 0.42), 0.06), skin * 0.76)
    if person.length < 1:
        for side in (-1.15, 1.15):
            easel.paint(easel.oval((side, 0.2), (0.15, 0.33), 0.05), skin * 0.82)
    easel.paint(easel.oval((0, -0.3), (1.12, 1.4), 0.06), skin)
    easel.put_face(face, size)
    thin = 0.5 if person.age_group == 0 else 1.0
    easel.paint(_cap(easel, person) * thin, hair, grain=0.05)
    return easel.picture()


def face_box(size: int) -> tuple[float, float, float, float]:
    """Left, top, right, bottom of the face in a `portrait` of that size, in pixels."""
    unit = size * EYE_DISTANCE
    left, top, right, bottom = FACE_BOX
    middle = WIDTH / 2
    return (middle + left) * unit, (EYE_LINE + top) * unit, (middle + right) * unit, (EYE_LINE + bottom) * unit


def _cap(easel: "_Easel", person: Person) -> np.ndarray:
    """The hair on top: a cap less the opening of the face, down to the ears or as far as long hair hangs."""
    cap = easel.oval((0, -0.45), (1.3, 1.5), 0.05)
    if person.length > 1:
        cap = np.maximum(cap, _lock(easel, person.length))
    opening = easel.oval((person.parting * 0.5, 0.1), (1.1, 0.1 + person.line), 0.09)
    opening = np.maximum(opening, easel.oval((0, 0.9), (1.04, 1.2), 0.09))
    centre, radii = ((0, 3.2), (9, 3.2 - person.length)) if person.length < 1 else ((0, 3.4), (1.0, 3))
    return cap * (1 - opening) * (1 - easel.oval(centre, radii, 0.1))


def _lock(easel: "_Easel", length: float) -> np.ndarray:
    """Hair hanging behind the face."""
    return easel.oval((0, (length - 1.6) / 2), (1.42, (length + 1.9) / 2), 0.06)


class _Easel:
    """A see-through canvas, painted in layers from back to front: float32 (4, h, w), RGB times opacity, and opacity."""

    def __init__(self, unit: float, height: float, rng: np.random.Generator):
        self.unit, self.rng = unit, rng
        self.shape = round(height * unit), round(WIDTH * unit)
        self.layers = np.zeros((4, *self.shape), np.float32)

    def oval(self, centre: tuple, radii: tuple, feather: float) -> np.ndarray:
        """float32 (h, w), 1 inside the oval, 0 outside, with a soft edge."""
        mask = np.zeros(self.shape, np.uint8)
        middle = (WIDTH / 2 + centre[0]) * self.unit, (EYE_LINE + centre[1]) * self.unit
        cv2.ellipse(mask, (middle, (2 * radii[0] * self.unit, 2 * radii[1] * self.unit), 0.0), 255, -1, cv2.LINE_AA)
        return cv2.GaussianBlur(mask, (0, 0), max(0.7 * feather * self.unit, 0.5)).astype(np.float32) / 255

    def paint(self, mask: np.ndarray, colour: np.ndarray, grain: float = 0.0) -> None:
        """Lays a colour, float32 (3,) or (3, h, w), over what the mask covers; grain gives it strands."""
        colour = colour.reshape(3, *colour.shape[1:] or (1, 1))
        if grain:
            strands = self.rng.standard_normal(self.shape, np.float32)
            strands = cv2.blur(strands, (1, max(3, round(self.unit * 0.5))))
            strands = cv2.GaussianBlur(strands, (0, 0), max(0.6, self.unit * 0.02))
            colour = colour * (1 + grain / cv2.meanStdDev(strands)[1].item() * strands)
        self.layers[:3] += mask * (colour - self.layers[:3])
        self.layers[3] += mask * (1 - self.layers[3])

    def put_face(self, face: np.ndarray, size: int) -> None:
        """Lays the face, uint8 (64, 64, 4), enlarged and slightly sharpened, where the eyes belong."""
        x = WIDTH / 2 * self.unit - size * (EYES[0][0] + EYES[1][0]) / 2
        y = EYE_LINE * self.unit - size * EYES[0][1]
        place = np.float32([[size / 64, 0, x], [0, size / 64, y]])
        face = face.astype(np.float32)
        face[..., :3] += 0.7 * (face[..., :3] - cv2.GaussianBlur(face[..., :3], (0, 0), 1.3))
        layer = cv2.warpAffine(face, place, self.shape[::-1], flags=cv2.INTER_CUBIC)
        colours, opacity = layer[..., :3], layer[..., 3]
        noise = self.rng.standard_normal(self.shape, np.float32)
        colours += 4 * cv2.blur(noise, (2, 2))[..., None]
        rows = (np.arange(self.shape[0], dtype=np.float32) - y) / size
        # The brow runs into the painted forehead, a long chin into the neck.
        fade = np.clip((rows - 0.05) / 0.12, 0, 1) * np.clip((0.98 - rows) / 0.05, 0, 1)
        mask = np.clip((opacity - 100) / 130, 0, 1) * fade[:, None]
        self.paint(cv2.GaussianBlur(mask, (0, 0), size * 0.012), colours.transpose(2, 0, 1))

    def picture(self) -> np.ndarray:
        """uint8, (h, w, 4), RGB and opacity."""
        scale = np.float32([1, 1, 1, 255])[:, None, None]
        pixels = self.layers * scale
        pixels[:3] /= np.maximum(self.layers[3], 1e-3)
        return np.clip(pixels, 0, 255).round().astype(np.uint8).transpose(1, 2, 0)
