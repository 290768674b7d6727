"""Finds labels that are probably wrong: labels that contradict a model that was not trained on the face.

Suitable models are out-of-fold models or, for data sets other than UTKFace, FairFace and All-Age-Faces, the
released ones.
"""

import numpy as np
import numpy.typing as npt
import pandas as pd

from src.config import GENDERS, YEAR_COUNT
from src.data.table import age_bounds, encode_gender

SUSPECT_DOUBT = 0.98  # labels with at least this doubt are suspect; benchmarks/label_noise.py measures the precision


def label_doubts(
    table: pd.DataFrame,
    gender_probability: npt.NDArray,
    year_probability: npt.NDArray,
    threshold: float = SUSPECT_DOUBT,
) -> pd.DataFrame:
    """Measures how strongly a model contradicts the labels of each face.

    Args:
        table: A table of faces (n rows).
        gender_probability: Predicted probabilities of female and male, floats (n, 2).
        year_probability: Predicted probabilities of the years 0-100, floats (n, 101).
        threshold: The lowest doubt of a suspect label, 0-1.

    Returns:
        gender_doubt: The probability of the other gender, as in confident learning (Northcutt, Jiang, Chuang, JAIR 2021).
        age_doubt: The position of the label in the tails of the predicted distribution: 0 at the median, 1 at its ends.
        suspect: Whether a doubt is at least `threshold`. Doubts are 0-1, and NaN for unknown labels.
    """
    gender, age = np.asarray(gender_probability, float), np.asarray(year_probability, float)
    n = len(table)
    if (gender.shape, age.shape) != ((n, len(GENDERS)), (n, YEAR_COUNT)):
        raise ValueError(
            "gender_probability and year_probability must have the shapes "
            f"{(n, len(GENDERS))} and {(n, YEAR_COUNT)}, got {gender.shape} and {age.shape}"
        )
    rows, label = np.arange(n), encode_gender(table["gender"])
    gender_doubt = np.where(label >= 0, 1 - gender[rows, label], np.nan)
    low, high = age_bounds(table)
    first, last = (np.nan_to_num(years).clip(0, YEAR_COUNT - 1).astype(int) for years in (low, high))
    cumulative = age.cumsum(axis=1)
    up_to_label, from_label = cumulative[rows, last], 1 - cumulative[rows, first] + age[rows, first]
    age_doubt = np.where(np.isnan(low), np.nan, np.clip(1 - 2 * np.minimum(up_to_label, from_label), 0, 1))
    suspect = (gender_doubt >= threshold) | (age_doubt >= threshold)
    return pd.DataFrame({"gender_doubt": gender_doubt, "age_doubt": age_doubt, "suspect": suspect}, index=table.index)
