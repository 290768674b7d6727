"""From image files to aligned faces.

Reading order: `image_io`, `detect`, `align`, `prepare` (whole data sets), `training_set`, then `duplicates` and
`image_quality`, which clean a data set.
"""
