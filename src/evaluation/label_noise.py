"""Labels that are likely wrong: how much a model that never saw a face doubts what its data set says of it.

Before it: `train.predict`, with models of which these faces were no part of the training: the released models for any set
but UTKFace and FairFace, or out-of-fold models. What is found is a column to look at, never a reason to drop a row unseen.
"""

import numpy as np
import pandas as pd

from src.config import GENDERS, YEARS

UNLIKELY = 0.98  # the doubt from which a label is flagged; benchmarks/label_noise.py measures what that finds


def label_doubts(table: pd.DataFrame, gender: np.ndarray, age: np.ndarray, unlikely: float = UNLIKELY) -> pd.DataFrame:
    """How much each face's labels are doubted: the columns gender_doubt, age_doubt (0-1, NaN where unknown), suspect (bool).

    table: a table of faces. gender: probabilities (n, 2), in the order of `config.GENDERS`; age: probabilities of the
    years 0 to 100, (n, 101). gender_doubt is the probability of the other gender, by which confident learning ranks two
    classes too (Northcutt, Jiang, Chuang, JAIR 2021). age_doubt says how far out in the tails of the model's distribution
    of years the label lies: 0 at its median, 1 where it has no weight beyond the label. suspect: one of them is `unlikely`.
    Raises ValueError for probabilities of other shapes.
    """
    gender, age = np.asarray(gender, float), np.asarray(age, float)
    wanted = (len(table), len(GENDERS)), (len(table), YEARS)
    if (gender.shape, age.shape) != wanted:
        raise ValueError(f"gender and age must have the shapes {wanted[0]} and {wanted[1]}, got {gender.shape}, {age.shape}")
    label = pd.Categorical(table["gender"], categories=GENDERS).codes
    rows = np.arange(len(table))
    gender_doubt = np.where(label >= 0, 1 - gender[rows, label], np.nan)
    low, high = (table[name].to_numpy(float, na_value=np.nan) for name in ("age_low", "age_high"))
    known = ~np.isnan(low)
    first, last = (np.clip(np.where(known, years, 0), 0, YEARS - 1).astype(int) for years in (low, high))
    up_to = np.cumsum(age, axis=1)
    younger, older = up_to[rows, last], 1 - up_to[rows, first] + age[rows, first]
    age_doubt = np.where(known, np.clip(1 - 2 * np.minimum(younger, older), 0, 1), np.nan)
    suspect = (gender_doubt >= unlikely) | (age_doubt >= unlikely)
    return pd.DataFrame({"gender_doubt": gender_doubt, "age_doubt": age_doubt, "suspect": suspect}, index=table.index)
