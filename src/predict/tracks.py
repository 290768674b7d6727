"""Following people through the frames of a video: faces are found now and then, and tracked in between.

dlib's correlation tracker (Danelljan et al., "Accurate scale estimation for robust visual tracking", 2014) carries a face
from one detection to the next. Where people cross, or somebody comes back, dlib's face descriptor tells who is who; it is
kept only while the video is followed.

Before it: `faces` and `descriptor`. After it: `video`.
"""

import functools
from dataclasses import dataclass, field
from typing import Any

import dlib
import numpy as np
from scipy.optimize import linear_sum_assignment

from src.faces import align as face_tools
from src.faces.align import Face
from src.faces.detect import DLIB_FACE_SCORE, VIDEO_FIRST_SIDE, intersection_over_union
from src.faces.landmark_file import packaged_file

QUICK = 15.0  # frames a second from which the trackers look at every second frame alone; between two looks a box lies halfway
EVERY = 0.24  # seconds from one detection to the next
SAME_PLACE = 0.2  # intersection over union: a detection and a track that may be one face
CROSSING = 0.15  # the same for two tracks: one may soon hide the other
SAME_PERSON = 0.45  # distance of two descriptors; for photos of years apart dlib says 0.6
PATIENCE = 3  # detections in a row that a face may be missed before its track is given up
STEADY = 6.0  # the tracker's peak-to-sidelobe ratio below which it has lost what it follows
REMEMBER = 5  # detections from one look that is kept to the next
RECOGNITION_FILE = "dlib_face_recognition_resnet_model_v1.dat"
SURE = 2  # detections that make a track a person; patterns that look like a face are seen once


@dataclass
class TrackedPerson:
    """Somebody in the video. descriptors: (128,) each, of some looks. boxes: by frame, left, top, right, bottom in pixels."""

    number: int
    descriptors: list[np.ndarray]
    boxes: dict[int, tuple] = field(default_factory=dict)
    detections: int = 0
    missed: int = 0
    last_seen: int = 0  # the frame of the last detection
    tracker: Any = None  # dlib.correlation_tracker; None: out of sight

    def unlike(self, looks: np.ndarray) -> float:
        """How far a descriptor is from the nearest one of this person."""
        return min(float(np.linalg.norm(own - looks)) for own in self.descriptors)

    @property
    def box(self) -> tuple:
        """Left, top, right and bottom in pixels, floats, of whoever is in sight."""
        place = self.tracker.get_position()
        return place.left(), place.top(), place.right(), place.bottom()


class Tracks:
    """Everybody seen so far; `update` takes the next frame.

    detector: see `faces.find_faces`. fps: frames a second.
    """

    def __init__(self, detector: str = "hog", fps: float = 25):
        self.detector = detector
        self.followed = 2 if fps >= QUICK else 1  # frames from one look of the trackers to the next
        self.every = self.followed * max(1, round(EVERY * fps / self.followed))  # frames from one detection to the next
        self.people: list[TrackedPerson] = []
        self.frame = -1

    @property
    def in_sight(self) -> list[TrackedPerson]:
        """Those who are followed at present."""
        return [person for person in self.people if person.tracker]

    def update(self, frame: np.ndarray) -> list[tuple[TrackedPerson, Face]]:
        """Follows everybody into the next frame, uint8 (height, width, 3), RGB; gives who was detected there anew."""
        self.frame += 1
        if self.frame % self.followed:
            return []
        for person in self.in_sight:
            if person.tracker.update(frame) < STEADY or not _inside(person.box, frame.shape):
                self._lose(person)
        seen = self._detect(frame) if self.frame % self.every == 0 else []
        for person in self.in_sight:
            person.boxes[self.frame] = person.box
        return seen

    def finish(self) -> list[TrackedPerson]:
        """The people of the whole video, numbered from 1 in the order in which they came."""
        for person in self.in_sight:
            self._lose(person)
        people = [person for person in self.people if person.detections >= SURE]
        for number, person in enumerate(people, start=1):
            person.number, person.boxes = number, _without_gaps(person.boxes, self.followed)
        return people

    def _detect(self, frame: np.ndarray) -> list[tuple[TrackedPerson, Face]]:
        found = [
            face for face in face_tools.find_faces(frame, self.detector, VIDEO_FIRST_SIDE) if face.score >= DLIB_FACE_SCORE
        ]
        known = self.in_sight
        matched = self._match(frame, known, found)
        for person in known:
            if person not in [one for one, _ in matched]:
                person.missed += 1
                behind = any(intersection_over_union(person.box, face.box) > CROSSING for _, face in matched)
                if behind or person.missed >= PATIENCE:
                    self._lose(person)
        matched = [(self._reunited(person, frame, face), face) for person, face in matched]
        taken = [id(face) for _, face in matched]
        matched += [(self._recognised(frame, face), face) for face in found if id(face) not in taken]
        for person, face in matched:
            person.tracker = dlib.correlation_tracker()
            person.tracker.start_track(frame, dlib.drectangle(*face.box))
            person.missed, person.last_seen = 0, self.frame
            person.detections += 1
            if person.detections % REMEMBER == 0:
                person.descriptors.append(descriptor(frame, face))
        return matched

    def _match(self, frame: np.ndarray, known: list[TrackedPerson], found: list[Face]) -> list[tuple[TrackedPerson, Face]]:
        """Who is where they were; where several are close together also by their looks."""
        if not known or not found:
            return []
        shared = np.array([[intersection_over_union(person.box, face.box) for face in found] for person in known])
        cost = 1 - shared
        for i, person in enumerate(known):
            if any(other is not person and intersection_over_union(person.box, other.box) > CROSSING for other in known):
                for j in np.flatnonzero(shared[i] >= SAME_PLACE):
                    unlike = person.unlike(descriptor(frame, found[j]))
                    cost[i, j] += 2 * unlike
                    if unlike > SAME_PERSON:
                        shared[i, j] = 0
        cost[shared < SAME_PLACE] = 10
        pairs = zip(*linear_sum_assignment(cost), strict=True)
        return [(known[i], found[j]) for i, j in pairs if shared[i, j] >= SAME_PLACE]

    def _recognised(self, frame: np.ndarray, face: Face) -> TrackedPerson:
        """Somebody who was out of sight, or somebody new."""
        looks = descriptor(frame, face)
        known = _alike(looks, [person for person in self.people if not person.tracker])
        if known is None:
            known = TrackedPerson(len(self.people) + 1, [looks])
            self.people.append(known)
        return known

    def _reunited(self, person: TrackedPerson, frame: np.ndarray, face: Face) -> TrackedPerson:
        """Somebody new may turn out to be somebody seen before, once more of the face shows than at first."""
        away = [other for other in self.people if not other.tracker and not other.boxes.keys() & person.boxes.keys()]
        if not away or person.detections >= REMEMBER:
            return person
        earlier = _alike(descriptor(frame, face), away)
        if earlier is None:
            return person
        earlier.boxes.update(person.boxes)
        earlier.descriptors += person.descriptors
        earlier.detections += person.detections
        self.people.remove(person)
        return earlier

    def _lose(self, person: TrackedPerson) -> None:
        """Out of sight; where the tracker went after the last detection does not count."""
        person.tracker, person.missed = None, 0
        person.boxes = {frame: box for frame, box in person.boxes.items() if frame <= person.last_seen}


def _alike(looks: np.ndarray, people: list[TrackedPerson]) -> TrackedPerson | None:
    """The person whom a descriptor fits best, if it fits one."""
    nearest = min(people, key=lambda person: person.unlike(looks), default=None)
    return nearest if nearest and nearest.unlike(looks) < SAME_PERSON else None


@functools.cache
def _recogniser():
    return dlib.face_recognition_model_v1(str(packaged_file(RECOGNITION_FILE)))


def descriptor(frame: np.ndarray, face: Face) -> np.ndarray:
    """dlib's 128 numbers for a face, nearer than 0.6 for photos of the same person."""
    points = [dlib.point(round(x), round(y)) for x, y in face.landmarks]
    box = dlib.rectangle(*(round(edge) for edge in face.box))
    shape = dlib.full_object_detection(box, points)
    return np.array(_recogniser().compute_face_descriptor(np.ascontiguousarray(frame), shape))


def _without_gaps(boxes: dict[int, tuple], followed: int) -> dict[int, tuple]:
    """Boxes by frame, also of the frames between two looks of the trackers."""
    filled = {}
    for frame, box in boxes.items():
        if (before := boxes.get(frame - followed)) is not None:
            for between in range(1, followed):
                share = between / followed
                filled[frame - followed + between] = tuple((1 - share) * np.array(before) + share * np.array(box))
        filled[frame] = box
    return filled


def _inside(box: tuple, shape: tuple) -> bool:
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    return 0 <= x < shape[1] and 0 <= y < shape[0]
