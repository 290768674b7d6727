"""From image files to aligned faces.

Reading order: `image_io`, `landmark_file`, `detect`, `align`, `prepare` (whole data sets), `duplicates`, `training_set`,
`image_quality` (cleaning).
"""
