"""Tracks people through the frames of a video: faces are detected at intervals and tracked in between.

dlib's correlation tracker (Danelljan et al., "Accurate scale estimation for robust visual tracking", 2014) carries a face
from one detection to the next. dlib's face descriptor tells people apart who cross each other or come back.
"""

import functools
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import dlib
import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from src.faces.align import Face, find_faces
from src.faces.detect import DETECTORS, VIDEO_FIRST_SIDE, Box, Photo, intersection_over_union
from src.faces.landmark_file import packaged_file

DETECTION_INTERVAL = 0.24  # seconds from one detection to the next
EVERY_FRAME_BELOW = 15.0  # frames a second; faster videos are tracked in every second frame and interpolated in between
MATCH_IOU = 0.2  # intersection over union from which a detection may belong to a track
CROSSING_IOU = 0.15  # intersection over union from which one of two people may hide the other
SAME_PERSON = 0.45  # distance of two descriptors below which they show one person; dlib says 0.6 for photos years apart
MIN_CONFIDENCE = 6.0  # the tracker's peak-to-sidelobe ratio below which it has lost the face
MAX_MISSED = 3  # missed detections in a row that end the tracking
DESCRIPTOR_INTERVAL = 5  # detections from one stored descriptor to the next
MIN_DETECTIONS = 2  # a track needs this many; a pattern that resembles a face is rarely detected twice
RECOGNITION_FILE = "dlib_face_recognition_resnet_model_v1.dat"
_Descriptor: TypeAlias = npt.NDArray[np.float64]  # (128,)


@dataclass(eq=False)
class Track:
    """One person in the video; `number` counts from 1."""

    number: int
    descriptors: list[_Descriptor]  # of some detections
    boxes: dict[int, Box] = field(default_factory=dict)  # by frame
    probabilities: dict[str, npt.NDArray] = field(default_factory=dict)  # by task, the sum over all detections, (classes,)
    detections: int = 0
    missed: int = 0  # detections in a row
    last_detection: int = 0  # frame
    tracker: Any = None  # dlib.correlation_tracker; None while the person is out of sight

    @property
    def box(self) -> Box:
        """The present box of a person in sight."""
        place = self.tracker.get_position()
        return place.left(), place.top(), place.right(), place.bottom()

    def distance(self, other: _Descriptor) -> float:
        """The distance of a descriptor from the nearest one of this person."""
        return min(float(np.linalg.norm(own - other)) for own in self.descriptors)

    def add_probabilities(self, probabilities: dict[str, npt.NDArray]) -> None:
        """Adds class probabilities to the sums."""
        for task, values in probabilities.items():
            self.probabilities[task] = self.probabilities.get(task, 0) + values.astype(float)


class MultiTracker:
    """Tracks all people of a video. `detector` is one of `detect.DETECTORS`; `fps` are frames a second."""

    def __init__(self, detector: str, fps: float = 25):
        self.detector = detector
        self.step = 2 if fps >= EVERY_FRAME_BELOW else 1  # frames from one update of the trackers to the next
        self.interval = self.step * max(1, round(DETECTION_INTERVAL * fps / self.step))  # frames between detections
        self.tracks: list[Track] = []
        self.frame = -1

    @property
    def in_sight(self) -> list[Track]:
        """The tracks of the people in sight."""
        return [track for track in self.tracks if track.tracker]

    def update(self, frame: Photo) -> list[tuple[Track, Face]]:
        """Takes the next frame, uint8 (height, width, 3), RGB. Returns the faces detected in it with their tracks."""
        self.frame += 1
        if self.frame % self.step:
            return []
        for track in self.in_sight:
            confidence, (left, top, right, bottom) = track.tracker.update(frame), track.box
            inside = 0 <= left + right < 2 * frame.shape[1] and 0 <= top + bottom < 2 * frame.shape[0]
            if confidence < MIN_CONFIDENCE or not inside:
                self._end(track)
        detected = self._detect(frame) if self.frame % self.interval == 0 else []
        for track in self.in_sight:
            track.boxes[self.frame] = track.box
        return detected

    def finish(self) -> list[Track]:
        """Ends the video. Returns the tracks with enough detections, numbered in the order in which the people came."""
        for track in self.in_sight:
            self._end(track)
        tracks = [track for track in self.tracks if track.detections >= MIN_DETECTIONS]
        for number, track in enumerate(tracks, start=1):
            track.number, track.boxes = number, _interpolate(track.boxes, self.step)
        return tracks

    def _detect(self, frame: Photo) -> list[tuple[Track, Face]]:
        lowest = DETECTORS[self.detector].min_score
        faces = [face for face in find_faces(frame, self.detector, VIDEO_FIRST_SIDE) if face.score >= lowest]
        tracks = self.in_sight
        matches = self._match(frame, tracks, faces)
        for i, track in enumerate(tracks):
            if i not in matches:
                track.missed += 1
                hidden = any(intersection_over_union(track.box, faces[j].box) > CROSSING_IOU for j in matches.values())
                if hidden or track.missed >= MAX_MISSED:
                    self._end(track)
        detected = [(self._identify(tracks[i], frame, faces[j]), faces[j]) for i, j in matches.items()]
        detected += [(self._identify(None, frame, face), face) for j, face in enumerate(faces) if j not in matches.values()]
        for track, face in detected:
            track.tracker = dlib.correlation_tracker()
            track.tracker.start_track(frame, dlib.drectangle(*face.box))
            track.missed, track.last_detection = 0, self.frame
            track.detections += 1
            if track.detections % DESCRIPTOR_INTERVAL == 0:
                track.descriptors.append(descriptor(frame, face))
        return detected

    def _match(self, frame: Photo, tracks: list[Track], faces: list[Face]) -> dict[int, int]:
        """The index of the detected face for each track, by place and, where people cross, also by descriptor."""
        if not tracks or not faces:
            return {}
        overlap = np.array([[intersection_over_union(track.box, face.box) for face in faces] for track in tracks])
        cost = 1 - overlap
        for i, track in enumerate(tracks):
            if any(intersection_over_union(track.box, other.box) > CROSSING_IOU for other in tracks if other is not track):
                for j in np.flatnonzero(overlap[i] >= MATCH_IOU):
                    distance = track.distance(descriptor(frame, faces[j]))
                    cost[i, j] += 2 * distance
                    if distance > SAME_PERSON:
                        overlap[i, j] = 0
        cost[overlap < MATCH_IOU] = 10
        return {int(i): int(j) for i, j in zip(*linear_sum_assignment(cost)) if overlap[i, j] >= MATCH_IOU}

    def _identify(self, track: Track | None, frame: Photo, face: Face) -> Track:
        """The track of a detected face: the track of the same person who was out of sight, the matched one, or a new one.

        A matched track may turn out to be an earlier person once more of the face is visible than at first; the two are
        merged.
        """
        own = track.boxes.keys() if track else set()
        away = [other for other in self.tracks if not other.tracker and not other.boxes.keys() & own]
        if track and (not away or track.detections >= DESCRIPTOR_INTERVAL):
            return track
        found = descriptor(frame, face)
        earlier = min(away, key=lambda other: other.distance(found), default=None)
        if earlier is None or earlier.distance(found) >= SAME_PERSON:
            if track is None:
                track = Track(len(self.tracks) + 1, [found])
                self.tracks.append(track)
            return track
        if track:
            earlier.boxes.update(track.boxes)
            earlier.descriptors += track.descriptors
            earlier.detections += track.detections
            earlier.add_probabilities(track.probabilities)
            self.tracks.remove(track)
        return earlier

    def _end(self, track: Track) -> None:
        """Marks a person as out of sight and drops the boxes after the last detection, which may be wrong."""
        track.tracker, track.missed = None, 0
        track.boxes = {frame: box for frame, box in track.boxes.items() if frame <= track.last_detection}


@functools.cache
def _recognition_model():
    return dlib.face_recognition_model_v1(str(packaged_file(RECOGNITION_FILE)))


def descriptor(frame: Photo, face: Face) -> _Descriptor:
    """dlib's face descriptor, float64 (128,). Descriptors of one person are close to each other."""
    points = [dlib.point(round(x), round(y)) for x, y in face.landmarks]
    shape = dlib.full_object_detection(dlib.rectangle(*(round(edge) for edge in face.box)), points)
    return np.array(_recognition_model().compute_face_descriptor(np.ascontiguousarray(frame), shape))


def _interpolate(boxes: dict[int, Box], step: int) -> dict[int, Box]:
    """Adds the boxes of the frames that the trackers skipped; `step` is 1 or 2."""
    if step == 1:
        return boxes
    between = {i - 1: tuple((np.array(boxes[i - 2]) + box) / 2) for i, box in boxes.items() if i - 2 in boxes}
    return dict(sorted((boxes | between).items()))
