"""Tracks people through the frames of a video: faces are detected at intervals and tracked in between.

A track is one person. dlib's correlation tracker (Danelljan et al., "Accurate scale estimation for robust visual tracking",
2014) follows a face from one detection to the next. dlib's face descriptor distinguishes people who cross each other, and
recognises people who return.
"""

import functools
from dataclasses import dataclass, field
from typing import Any

import dlib
import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.optimize import linear_sum_assignment

from src.faces.align import Face, align_for_tasks, find_faces
from src.faces.detect import DETECTORS, Box, Photo, intersection_over_union
from src.faces.landmark_file import packaged_file
from src.predict.inference import FACE_TYPES, Models

DETECTION_INTERVAL = 0.24  # seconds from one detection to the next
SKIP_FRAMES_FROM_FPS = 15.0  # frames per second from which every second frame is skipped, and boxes are interpolated
MATCH_IOU = 0.2  # minimum intersection over union of a track and its detection
CROSSING_IOU = 0.15  # minimum intersection over union of two people, one of whom may hide the other
SAME_PERSON_DISTANCE = 0.45  # maximum distance of two descriptors of one person; dlib uses 0.6 for photos years apart
MIN_TRACKER_CONFIDENCE = 6.0  # minimum peak-to-sidelobe ratio of the tracker; below it, the face is lost
MAX_MISSED = 3  # consecutive detections without the person that end the tracking
STORED_DETECTIONS = (1, 5, 20, 80, 320, 1280, 5120)  # a person's detections whose face is stored; comparing takes long
IDENTIFIED_AFTER = 5  # a track with this many detections is no longer compared with earlier people
MIN_DETECTIONS = 2  # minimum detections of a person; a pattern that resembles a face is rarely detected twice
RECOGNITION_FILE = "dlib_face_recognition_resnet_model_v1.dat"


class FaceView:
    """A face as dlib's descriptor network takes it. The descriptor is computed at its first use, because it takes long."""

    def __init__(self, frame: Photo, face: Face):
        """Takes the face's pixels from a frame, uint8 (height, width, 3), RGB."""
        points = [dlib.point(round(x), round(y)) for x, y in face.landmarks]
        shape = dlib.full_object_detection(dlib.rectangle(*(round(edge) for edge in face.box)), points)
        self._chip = dlib.get_face_chip(np.ascontiguousarray(frame), shape)

    @functools.cached_property
    def descriptor(self) -> npt.NDArray[np.float64]:
        """dlib's face descriptor, (128,). Descriptors of one person are close to each other."""
        return np.array(_recognition_model().compute_face_descriptor(self._chip))


@dataclass(eq=False)
class Track:
    """One person in the video."""

    number: int  # from 1
    views: list[FaceView] = field(default_factory=list)  # of the detections `STORED_DETECTIONS`
    boxes: dict[int, Box] = field(default_factory=dict)  # by frame
    probability_sums: dict[str, npt.NDArray] = field(default_factory=dict)  # by task, over all detections, (classes,)
    detections: int = 0
    missed: int = 0  # consecutive detections without this person
    last_detection: int = 0  # frame
    tracker: Any = None  # dlib.correlation_tracker; None while the person is out of sight

    @property
    def box(self) -> Box:
        """The present box of a person in sight."""
        position = self.tracker.get_position()
        return position.left(), position.top(), position.right(), position.bottom()

    def distance(self, view: FaceView) -> float:
        """Returns the distance of a face's descriptor from the nearest one of this person."""
        return min(float(np.linalg.norm(own.descriptor - view.descriptor)) for own in self.views)

    def add_probabilities(self, probabilities: dict[str, npt.NDArray]) -> None:
        """Adds class probabilities to the sums."""
        for task, values in probabilities.items():
            self.probability_sums[task] = self.probability_sums.get(task, 0) + values.astype(float)


class MultiTracker:
    """Tracks all people in a video. `detector` is one of `detect.DETECTORS`; `fps` are frames per second."""

    def __init__(self, detector: str, fps: float = 25):
        self.detector = detector
        self.step = 2 if fps >= SKIP_FRAMES_FROM_FPS else 1  # frames from one update of the trackers to the next
        self.interval = self.step * max(1, round(DETECTION_INTERVAL * fps / self.step))  # frames between detections
        self.tracks: list[Track] = []
        self.frame = -1

    @property
    def in_sight(self) -> list[Track]:
        """The tracks of the people in sight."""
        return [track for track in self.tracks if track.tracker]

    def update(self, frame: Photo) -> list[tuple[Track, Face]]:
        """Processes a frame, uint8 (height, width, 3), RGB, and returns the faces detected in it with their tracks.

        Call it for every frame, in order.
        """
        self.frame += 1
        if self.frame % self.step:
            return []
        for track in self.in_sight:
            confidence, (left, top, right, bottom) = track.tracker.update(frame), track.box
            inside = 0 <= left + right < 2 * frame.shape[1] and 0 <= top + bottom < 2 * frame.shape[0]
            if confidence < MIN_TRACKER_CONFIDENCE or not inside:
                self._lose(track)
        detected = self._detect(frame) if self.frame % self.interval == 0 else []
        for track in self.in_sight:
            track.boxes[self.frame] = track.box
        return detected

    def finish(self) -> list[Track]:
        """Ends the video and returns the tracks with enough detections, numbered in order of first appearance."""
        for track in self.in_sight:
            self._lose(track)
        tracks = [track for track in self.tracks if track.detections >= MIN_DETECTIONS]
        for number, track in enumerate(tracks, start=1):
            track.number, track.boxes = number, _interpolate(track.boxes, self.step)
        return tracks

    def _detect(self, frame: Photo) -> list[tuple[Track, Face]]:
        """Detects the faces in a frame and restarts the tracker of each."""
        min_score = DETECTORS[self.detector].video_min_score
        faces = [face for face in find_faces(frame, self.detector, video=True) if face.score >= min_score]
        views = [FaceView(frame, face) for face in faces]
        tracks = self.in_sight
        matches = self._match(tracks, faces, views)
        for i, track in enumerate(tracks):
            if i not in matches:
                track.missed += 1
                hidden = any(intersection_over_union(track.box, faces[j].box) > CROSSING_IOU for j in matches.values())
                if hidden or track.missed >= MAX_MISSED:
                    self._lose(track)
        matched, detected = {j: tracks[i] for i, j in matches.items()}, []
        for j, face in enumerate(faces):
            track = self._assign_track(matched.get(j), views[j])
            track.tracker = dlib.correlation_tracker()
            track.tracker.start_track(frame, dlib.drectangle(*face.box))
            track.missed, track.last_detection = 0, self.frame
            track.detections += 1
            if track.detections in STORED_DETECTIONS:
                track.views.append(views[j])
            detected.append((track, face))
        return detected

    def _match(self, tracks: list[Track], faces: list[Face], views: list[FaceView]) -> dict[int, int]:
        """Returns the index of the face for tracks, matched by position and, where people cross, also by descriptor."""
        if not tracks or not faces:
            return {}
        overlap = np.array([[intersection_over_union(track.box, face.box) for face in faces] for track in tracks])
        cost = 1 - overlap
        for i, track in enumerate(tracks):
            if any(intersection_over_union(track.box, other.box) > CROSSING_IOU for other in tracks if other is not track):
                for j in np.flatnonzero(overlap[i] >= MATCH_IOU):
                    distance = track.distance(views[j])
                    cost[i, j] += 2 * distance
                    if distance > SAME_PERSON_DISTANCE:
                        overlap[i, j] = 0
        cost[overlap < MATCH_IOU] = 10
        return {int(i): int(j) for i, j in zip(*linear_sum_assignment(cost)) if overlap[i, j] >= MATCH_IOU}

    def _assign_track(self, matched: Track | None, view: FaceView) -> Track:
        """Returns the track of a face: that of an earlier person who is back, the matched one, or a new one.

        A matched track may turn out to be an earlier person once more of the face is visible than at first. The two are
        merged.
        """
        candidates = self._out_of_sight(matched)
        if matched and (not candidates or matched.detections >= IDENTIFIED_AFTER):
            return matched
        earlier = min(candidates, key=lambda track: track.distance(view), default=None)
        if earlier and earlier.distance(view) < SAME_PERSON_DISTANCE:
            return self._merge(earlier, matched) if matched else earlier
        if not matched:
            matched = Track(max((track.number for track in self.tracks), default=0) + 1)  # merged tracks leave gaps
            self.tracks.append(matched)
        return matched

    def _out_of_sight(self, matched: Track | None) -> list[Track]:
        """Returns the tracks of people out of sight, without people who were seen beside the matched track's person."""
        own_frames = matched.boxes.keys() if matched else set()
        return [track for track in self.tracks if not track.tracker and not track.boxes.keys() & own_frames]

    def _merge(self, earlier: Track, track: Track) -> Track:
        """Adds a track to the earlier one of the same person, and returns it."""
        earlier.boxes.update(track.boxes)
        earlier.views += track.views
        earlier.detections += track.detections
        earlier.add_probabilities(track.probability_sums)
        self.tracks.remove(track)
        return earlier

    def _lose(self, track: Track) -> None:
        """Marks a person as out of sight and drops the boxes after the last detection, which may be wrong."""
        track.tracker, track.missed = None, 0
        track.boxes = {frame: box for frame, box in track.boxes.items() if frame <= track.last_detection}


def run_models(detected: list[tuple[Track, Face]], frame: Photo, models: Models) -> None:
    """Runs the models on the faces detected in a frame, and adds the probabilities to their tracks."""
    probabilities = models.probabilities([align_for_tasks(frame, face, models.alignments) for _, face in detected])
    for i, (track, _) in enumerate(detected):
        track.add_probabilities({task: values[i] for task, values in probabilities.items()})


def predictions_table(tracks: list[Track], models: Models) -> pd.DataFrame:
    """Returns the predictions from each track's mean probabilities: one row per track with the columns `FACE_TYPES`."""
    rows: list[dict] = []
    if tracks:
        tasks = models.trained
        rows = models.to_rows({task: np.stack([t.probability_sums[task] / t.detections for t in tracks]) for task in tasks})
    return pd.DataFrame(rows, columns=list(FACE_TYPES)).astype(FACE_TYPES)


@functools.cache
def _recognition_model():
    return dlib.face_recognition_model_v1(str(packaged_file(RECOGNITION_FILE)))


def _interpolate(boxes: dict[int, Box], step: int) -> dict[int, Box]:
    """Adds the boxes of the frames that the trackers skipped; `step` is 1 or 2."""
    if step == 1:
        return boxes
    between = {i - 1: tuple((np.array(boxes[i - 2]) + box) / 2) for i, box in boxes.items() if i - 2 in boxes}
    return dict(sorted((boxes | between).items()))
