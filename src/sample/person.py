"""Drawn people: a face from the face model, with painted hair, neck, clothes and glasses around it.

The face model ends at the brows, the ears and the chin. The unit of length is the eye distance. Coordinates (x, y) start in
the middle between the eyes and go to the right and downwards. Colours are RGB, 0-255; masks are float32 from 0 to 1.
"""

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from src.config import GENDERS
from src.sample.face_model import EYE_POSITIONS, TEXTURE_SIZE, FaceModel, Floats, face_mask, warp

EYE_DISTANCE = EYE_POSITIONS[1][0] - EYE_POSITIONS[0][0]  # the unit of length, as a fraction of the face square's side
FRAME_WIDTH, FRAME_HEIGHT = 5.0, 5.4  # size of the painted frame, which reaches down to the shoulders
EYE_HEIGHT = 2.35  # distance of the eyes from the frame's upper edge
FACE_BOX = (-1.2, -0.85, 1.2, 1.8)  # left, top, right, bottom of the face
TEENAGER, ADULT = 3, 4  # age groups 15-20 and 25-32
LONG_HAIR = 0.5  # longer hair is also painted behind the head
# From black to fair; darker skin goes with the darker colours.
HAIR_COLOURS = np.float32([(30, 25, 24), (56, 38, 28), (94, 64, 44), (150, 108, 66), (190, 150, 98)])
GREY_HAIR, WHITE_HAIR = np.float32([146, 143, 140]), np.float32([214, 212, 209])
CLOTHES = np.float32(
    [(58, 76, 112), (122, 52, 58), (66, 98, 84), (92, 90, 96), (196, 186, 168), (150, 116, 72), (86, 70, 110)]
)
PHOTO_VARIATION = 0.15  # standard deviation of a person's coefficients between photos
VARIABLE_COMPONENTS = 24  # the first components, which vary between photos


@dataclass(frozen=True)
class Person:
    """The features of a drawn person that all photos share."""

    coefficients: Floats  # coefficients of the face model
    age_group: int  # index into the eight groups of Adience
    gender: str
    hair: Floats  # hair colour, (3,)
    hair_length: float  # how far the hair reaches below the eyes
    hairline_height: float  # distance of the hairline above the eyes
    parting_offset: float  # how far the parting is to the right of the middle
    curly: bool
    beard: float  # opacity of the beard, 0-1
    glasses: bool


def new_person(model: FaceModel, age_group: int, gender: str, rng: np.random.Generator) -> Person:
    """Draws a person of an age group (0-7) and gender ("female" or "male"); hair, beard and glasses depend on both."""
    coefficients = model.sample_coefficients(age_group, gender, rng)
    skin_brightness = model.texture(coefficients)[10:80, 40:88].mean()
    darkest = int(np.interp(skin_brightness, (90, 190), (0, 2)))
    hair = HAIR_COLOURS[rng.integers(darkest, darkest + (1 if skin_brightness < 110 else 3))] * rng.uniform(0.9, 1.1)
    grey = np.clip(np.interp(age_group, (3, 4, 5, 6, 7), (0, 0.03, 0.2, 0.6, 0.95)) + rng.normal(0, 0.07), 0, 1)
    hair = hair * (1 - grey) + grey * (GREY_HAIR + grey * rng.uniform(0.2, 1) * (WHITE_HAIR - GREY_HAIR))
    male = gender == GENDERS[1]
    # Long hair marks most female faces and few male ones, so that there is a cue to learn.
    if rng.random() < (0.06 if male else 0.85) and not (male and age_group == 0):
        hair_length = rng.uniform(1.0, 1.4 if age_group == 0 else 2.7)
    else:
        hair_length = rng.uniform(0.0, 0.3) if male else rng.uniform(0.2, 0.9)
    beard = (age_group >= ADULT) * male * (rng.uniform(0.35, 0.85) if rng.random() < 0.4 else 0.15)
    bald = male and rng.random() < np.interp(age_group, (3, 4, 7), (0, 0.1, 0.75))
    hairline_height = rng.uniform(1.3, 1.6) if bald else rng.uniform(1.0, 1.25) if age_group == 0 else rng.uniform(0.75, 1.0)
    return Person(
        coefficients,
        age_group,
        gender,
        hair.astype(np.float32),
        hair_length,
        hairline_height,
        parting_offset=rng.uniform(-0.35, 0.35),
        curly=rng.random() < 0.3,
        beard=beard,
        glasses=rng.random() < np.interp(age_group, (1, 4, 6, 7), (0, 0.12, 0.3, 0.55)),
    )


def draw_person(
    model: FaceModel, person: Person, size: int, rng: np.random.Generator, height: float = FRAME_HEIGHT
) -> npt.NDArray[np.uint8]:
    """Draws a person with random lighting and clothes; `face_box` gives the position of the face.

    Args:
        model: The face model.
        person: The person to draw.
        size: Side of the face square in pixels.
        rng: Source of randomness.
        height: Height of the image in eye distances.

    Returns:
        RGB and opacity, uint8 (height x unit, FRAME_WIDTH x unit, 4) with an eye distance of `unit` pixels.
    """
    coefficients = person.coefficients.copy()
    coefficients[:VARIABLE_COMPONENTS] += rng.normal(0, PHOTO_VARIATION, VARIABLE_COMPONENTS)
    texture = _paint_details(model, person, model.texture(coefficients), rng)
    warmth = rng.uniform(0.9, 1.1) * (1 + rng.uniform(-0.03, 0.03) * np.float32([1, 0, -1]))
    texture = np.clip((texture - 128) * warmth + 128 + rng.uniform(-12, 12), 0, 255).astype(np.float32)
    layers = np.dstack([texture, face_mask(model.mean_shape)])
    face = warp(layers, model.shape(coefficients), model.mean_shape * TEXTURE_SIZE - 0.5, round(size))
    # The skin colour is that of the forehead and the cheeks, because either alone may be in a shadow or a highlight.
    patches = texture[8:18, 48:80].reshape(-1, 3), texture[60:70, 34:94].reshape(-1, 3)
    skin = np.mean([np.median(patch, axis=0) for patch in patches], axis=0, dtype=np.float32)

    grown, male = person.age_group >= TEENAGER, person.gender == GENDERS[1]
    neck = 0.55 + 0.07 * grown + 0.13 * (grown and male)
    canvas = _Canvas(size * EYE_DISTANCE, height, rng)
    # From back to front: hair behind the head, neck, clothes, collar, ears, head, face, glasses, hair on top
    if person.hair_length > LONG_HAIR:
        canvas.paint_hair(_long_hair_mask(canvas, person), person, 0.7)
    canvas.paint(canvas.oval((0, 1.6), (neck + 0.05, 1.4), 0.05), skin * 0.8)
    body = canvas.oval((0, 3.8), (1.8 + 0.2 * grown + 0.4 * (grown and male), 1.95), 0.05)
    waist = round((EYE_HEIGHT + 3.8) * canvas.unit)
    body[waist:] = body[min(waist, len(body) - 1)]
    canvas.paint(body, CLOTHES[rng.integers(len(CLOTHES))] * rng.uniform(0.8, 1.15), grain=0.02)
    canvas.paint(canvas.oval((0, 1.95), (neck, 0.42), 0.06), skin * 0.76)
    for side in (-1.15, 1.15):
        canvas.paint(canvas.oval((side, 0.2), (0.15, 0.33), 0.05), skin * 0.82)
    canvas.paint(canvas.oval((0, -0.3), (1.12, 1.4), 0.06), skin[:, None, None] * (1.02 - 0.16 * canvas.x**2))
    canvas.paint_face(face, size)
    if person.glasses:
        canvas.paint_glasses()
    canvas.paint_hair(_top_hair_mask(canvas, person) * (0.5 if person.age_group == 0 and male else 1.0), person, 1.0)
    return canvas.image()


def face_box(size: float) -> tuple[float, float, float, float]:
    """Returns left, top, right and bottom of the face in pixels of `draw_person`'s image with this `size`."""
    unit = size * EYE_DISTANCE
    left, top, right, bottom = FACE_BOX
    middle = FRAME_WIDTH / 2
    return (middle + left) * unit, (EYE_HEIGHT + top) * unit, (middle + right) * unit, (EYE_HEIGHT + bottom) * unit


def _paint_details(model: FaceModel, person: Person, texture: Floats, rng: np.random.Generator) -> Floats:
    """Adds beard, make-up and wrinkles to a texture, float32 (TEXTURE_SIZE, TEXTURE_SIZE, 3), 0-255."""
    points = model.mean_shape * TEXTURE_SIZE - 0.5
    unit = EYE_DISTANCE * TEXTURE_SIZE

    def area(corners: np.ndarray, blur: float) -> Floats:
        """Returns the mask (TEXTURE_SIZE, TEXTURE_SIZE, 1) of a polygon in pixels."""
        mask = cv2.fillPoly(np.zeros((TEXTURE_SIZE, TEXTURE_SIZE), np.uint8), [np.int32(np.round(corners))], 255)
        return cv2.GaussianBlur(mask, (0, 0), blur).astype(np.float32)[..., None] / 255

    lips = area(np.vstack([points[48:60], points[60:][::-1]]), 1)
    if person.beard:
        moustache = [points[48] - (3, 0), points[33] + (0, 0.12 * unit), points[54] + (3, 0)]
        beard = area(np.vstack([points[3:14], moustache[::-1]]), 3) * (1 - area(points[48:60], 1))
        grain = 1 + 0.25 * rng.standard_normal((TEXTURE_SIZE, TEXTURE_SIZE, 1), np.float32)
        texture = texture + beard * person.beard * np.clip(grain, 0.3, 1.5) * (person.hair * 0.9 - texture)
    if person.gender == GENDERS[0] and person.age_group >= TEENAGER:
        texture = texture + 0.4 * lips * (np.float32([170, 50, 62]) - texture)
    strength = np.interp(person.age_group, (3, 4, 5, 6, 7), (0, 0.15, 0.45, 0.8, 1.3))
    if strength:
        texture = texture * (1 - 0.25 * strength * _wrinkles(points, rng))
        blotches = cv2.GaussianBlur(rng.standard_normal((TEXTURE_SIZE, TEXTURE_SIZE), np.float32), (0, 0), 1.5)
        texture = texture * (1 + 0.12 * strength * blotches[..., None])
    return texture


def _wrinkles(points: np.ndarray, rng: np.random.Generator) -> Floats:
    """Returns lines on the forehead and beside the mouth: float32 (TEXTURE_SIZE, TEXTURE_SIZE, 1)."""
    lines = np.zeros((TEXTURE_SIZE, TEXTURE_SIZE), np.uint8)
    x = np.linspace(-0.75, 0.75, 12)
    curves = [
        points[27] + EYE_DISTANCE * TEXTURE_SIZE * np.column_stack([x, -rise - 0.05 * np.cos(3 * x + rng.normal(0, 0.5))])
        for rise in (0.42, 0.54, 0.66)
    ]
    for side, nostril, mouth in ((-1, 31, 48), (1, 35, 54)):
        curves.append(
            np.array([points[nostril] + (4 * side, 0), points[mouth] + (7 * side, 0), points[mouth] + (7 * side, 8)])
        )
    for curve in curves:
        cv2.polylines(lines, [np.int32(np.round(curve * 16))], False, int(rng.integers(120, 256)), 1, cv2.LINE_AA, 4)
    return cv2.GaussianBlur(lines, (0, 0), 1).astype(np.float32)[..., None] / 128


def _top_hair_mask(canvas: "_Canvas", person: Person) -> Floats:
    """Returns the mask of the hair above and beside the face, which ends at `hair_length`. Long hair leaves the neck free."""
    cap = canvas.oval((0, -0.45), (1.3, 1.5), 0.05)
    if person.hair_length > LONG_HAIR:
        cap = np.maximum(cap, _long_hair_mask(canvas, person))
    opening = canvas.oval((person.parting_offset * 0.5, 0.1), (1.1, 0.1 + person.hairline_height), 0.09)
    opening = np.maximum(opening, canvas.oval((0, 0.9), (1.04, 1.2), 0.09))
    centre, radii = ((0, 3.2), (9, 3.2 - person.hair_length)) if person.hair_length < 1.2 else ((0, 3.4), (1.0, 3))
    return cap * (1 - opening) * (1 - canvas.oval(centre, radii, 0.1))


def _long_hair_mask(canvas: "_Canvas", person: Person) -> Floats:
    return canvas.oval((0, (person.hair_length - 1.6) / 2), (1.42, (person.hair_length + 1.9) / 2), 0.06)


class _Canvas:
    """A transparent image, painted in layers from back to front: float32 (4, h, w), RGB times opacity, and opacity.

    `unit` is the eye distance in pixels. All other lengths are eye distances.
    """

    def __init__(self, unit: float, height: float, rng: np.random.Generator):
        self.unit, self.rng = unit, rng
        self.shape = round(height * unit), round(FRAME_WIDTH * unit)
        self.layers = np.zeros((4, *self.shape), np.float32)
        self.x = (np.arange(self.shape[1], dtype=np.float32) / unit - FRAME_WIDTH / 2)[None, None]
        self.y = (np.arange(self.shape[0], dtype=np.float32) / unit - EYE_HEIGHT)[None, :, None]

    def oval(self, centre: tuple, radii: tuple, feather: float) -> Floats:
        """Returns the mask (h, w) of an oval with its centre (x, y), its radii and the width of its soft edge."""
        mask = np.zeros(self.shape, np.uint8)
        middle = (FRAME_WIDTH / 2 + centre[0]) * self.unit, (EYE_HEIGHT + centre[1]) * self.unit
        cv2.ellipse(mask, (middle, (2 * radii[0] * self.unit, 2 * radii[1] * self.unit), 0.0), 255, -1, cv2.LINE_AA)
        return cv2.GaussianBlur(mask, (0, 0), max(0.7 * feather * self.unit, 0.5)).astype(np.float32) / 255

    def paint(self, mask: Floats, colour: np.ndarray, grain: float = 0.0) -> None:
        """Paints a colour, (3,) or broadcast to (3, h, w), where the mask is; `grain` makes it uneven."""
        colour = colour[:, None, None] if colour.ndim == 1 else colour
        if grain:
            colour = colour * (1 + grain * self.rng.standard_normal(self.shape, np.float32))
        self.layers[:3] += mask * (colour - self.layers[:3])
        self.layers[3] += mask * (1 - self.layers[3])

    def paint_hair(self, mask: Floats, person: Person, brightness: float) -> None:
        """Paints hair with strands, a ragged edge and a gloss around the crown."""
        strands = self.rng.standard_normal(self.shape, np.float32)
        length = max(3, round(self.unit * (0.12 if person.curly else 0.6)))  # length of a strand in pixels
        strands = cv2.blur(strands, (length, length) if person.curly else (1, length))
        strands = cv2.GaussianBlur(strands, (0, 0), max(0.6, self.unit * 0.02))
        strands /= cv2.meanStdDev(strands)[1].item()
        mask = np.clip(mask + 1.2 * mask * (1 - mask) * strands, 0, 1)
        gloss = 0.88 + 0.3 * np.exp(-(((self.y + 1.25 + 0.25 * self.x**2) / 0.3) ** 2))
        self.paint(mask, person.hair[:, None, None] * brightness * gloss * (1 + 0.09 * strands))

    def paint_face(self, face: Floats, size: float) -> None:
        """Paints the face, float32 (size, size, 4), RGB and opacity, slightly sharpened, with the eyes in their place."""
        face[..., :3] += 0.5 * (face[..., :3] - cv2.GaussianBlur(face[..., :3], (0, 0), size / 60))
        face[..., :3] += 3 * self.rng.standard_normal((*face.shape[:2], 1), np.float32)
        x = FRAME_WIDTH / 2 * self.unit - size / 2
        y = EYE_HEIGHT * self.unit - size * EYE_POSITIONS[0][1]
        layer = cv2.warpAffine(face, np.float32([[1, 0, x], [0, 1, y]]), self.shape[::-1], flags=cv2.INTER_LINEAR)
        self.paint(layer[..., 3], layer[..., :3].transpose(2, 0, 1))

    def paint_glasses(self) -> None:
        """Paints round glasses with dark rims."""
        for side in (-0.5, 0.5):
            rim = self.oval((side, 0.03), (0.42, 0.36), 0.01) - self.oval((side, 0.03), (0.37, 0.31), 0.01)
            self.paint(np.clip(rim, 0, 1) * 0.85, np.float32([45, 36, 34]))
        self.paint(self.oval((0, -0.04), (0.11, 0.03), 0.01) * 0.85, np.float32([45, 36, 34]))

    def image(self) -> npt.NDArray[np.uint8]:
        """Returns uint8 (h, w, 4), RGB and opacity."""
        pixels = self.layers * np.float32([1, 1, 1, 255])[:, None, None]
        pixels[:3] /= np.maximum(self.layers[3], 1e-3)
        return np.clip(pixels, 0, 255).round().astype(np.uint8).transpose(1, 2, 0)
