"""How good the answers are: scores of each face, their means with 95% intervals, and tables by class, group and fold.

Every function takes plain arrays, whichever model or data set they came from:

- truth: integers (n,), the right class of each face, from 0;
- probability: floats (n, classes), each row summing to 1;
- years: floats (n,), the exact age of each face, NaN where only a range or nothing is known;
- centre_years: floats (classes,), the mean age of each class among the training faces;
- subjects: (n,), who each face is, NA where that is not known.

Before it: `train`. After it: `calibrate` and `assess`.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd

from src.config import SEED

RESAMPLES = 2000
BATCH_NUMBERS = 4_000_000  # of a bootstrap held in memory at once: 32 MB


class Measure(NamedTuple):
    """A mean over `n` faces with its interval; `unit` is "share" (0-1, printed in per cent) or "years"."""

    value: float
    low: float
    high: float
    n: int
    unit: str = "share"

    def __str__(self) -> str:
        scale, digits, sign = (100, 1, "%") if self.unit == "share" else (1, 2, " years")
        if self.n == 0:
            return "– (n = 0)"
        value, low, high = (f"{number * scale:.{digits}f}" for number in self[:3])
        interval = "" if np.isnan(self.low) else f"{low}–{high}, "
        return f"{value}{sign} ({interval}n = {self.n:,})"


def decode(probability, ordered: bool = False) -> np.ndarray:
    """The class that each row of probabilities answers; int64 (n,).

    It is the likeliest class or, where the classes are `ordered` as ages are, the median one: the first at which the
    probabilities add up to a half. That is the answer that is the fewest classes off on average; where young and old are
    about as likely, it lies between them.
    """
    probability = _checked_probability(probability)
    return (probability.cumsum(axis=1) < 0.5).sum(axis=1) if ordered else probability.argmax(axis=1)


def exact_match(truth, probability, ordered: bool = False) -> np.ndarray:
    """1.0 for each face whose `answer` is the right class, else 0.0; float64 (n,)."""
    truth, probability = _checked(truth, probability)
    return (decode(probability, ordered) == truth).astype(float)


def one_off(truth, probability) -> np.ndarray:
    """1.0 for each face whose `answer` (classes ordered) is the right class or next to it, else 0.0; float64 (n,)."""
    truth, probability = _checked(truth, probability)
    return (np.abs(decode(probability, ordered=True) - truth) <= 1).astype(float)


def expected_years(probability, centre_years) -> np.ndarray:
    """The age in years that each row of probabilities expects: the mean of the classes' ages, weighted; float64 (n,).

    Source: the expected value of DEX (Rothe et al. 2018), here over age groups instead of single years.
    """
    probability = _checked_probability(probability)
    centre_years = np.asarray(centre_years, float)
    if centre_years.shape != probability.shape[1:] or not np.isfinite(centre_years).all():
        raise ValueError(
            f"centre_years must be {probability.shape[1]} finite numbers, one for each class, got {centre_years}"
        )
    return probability @ centre_years


def absolute_error(years, probability, centre_years) -> np.ndarray:
    """How many years the expected age is off, for each face; float64 (n,), NaN where the exact age is not known."""
    expected = expected_years(probability, centre_years)
    return np.abs(expected - _of_length("years", np.asarray(years, float), len(expected)))


def bootstrap_mean(scores, subjects=None, unit: str = "share", confidence: float = 0.95, seed: int = SEED) -> Measure:
    """The mean of the faces' scores with its percentile bootstrap interval of 2,000 resamples.

    scores: floats (n,), one a face. Where `subjects` are given, whole subjects are resampled (cluster bootstrap),
    because faces of one subject are not independent; a face with no subject stands for itself.

    Where all faces (or none) are right, a bootstrap sees no spread: those shares get the exact binomial interval
    (Clopper and Pearson), counted over subjects. Low and high are NaN where the years of one face or subject are all
    there is; the value is NaN too where there is no face. Raises ValueError for NaN scores.
    """
    from scipy.stats import binomtest, bootstrap  # here: whoever only predicts should not wait for it

    scores = np.asarray(scores, float)
    if scores.ndim != 1 or np.isnan(scores).any():
        raise ValueError(f"scores must be numbers of shape (n,), none of them NaN, got shape {scores.shape}")
    if len(scores) == 0:
        return Measure(np.nan, np.nan, np.nan, 0, unit)
    who = _numbered(subjects, len(scores))
    sums, counts = np.bincount(who, scores), np.bincount(who)
    value = float(scores.mean())
    if unit == "share" and value in (0, 1):
        low, high = binomtest(int(value) * len(sums), len(sums)).proportion_ci(confidence)
    elif len(sums) == 1:
        low = high = np.nan
    else:
        low, high = bootstrap(
            (sums, counts),
            _ratio,
            n_resamples=RESAMPLES,
            batch=max(1, BATCH_NUMBERS // len(sums)),
            vectorized=True,
            paired=True,
            confidence_level=confidence,
            method="percentile",
            rng=np.random.default_rng(seed),
        ).confidence_interval
    return Measure(value, float(low), float(high), len(scores), unit)


def headline_metrics(task: str, truth, probability, years=None, centre_years=None, subjects=None) -> pd.DataFrame:
    """The few numbers that a task is judged by, each with its 95% interval.

    task: "gender" or "age". Rows: `accuracy`; for age `one-off accuracy` too and, where `years` hold any exact age,
    `mean absolute error` over those faces. Columns: those of `Measure`, so `str(Measure(*row))` prints a row.
    """
    if task not in ("gender", "age"):
        raise ValueError(f"task must be gender or age, got {task!r}")
    measures = {"accuracy": bootstrap_mean(exact_match(truth, probability, ordered=task == "age"), subjects)}
    if task == "age":
        measures["one-off accuracy"] = bootstrap_mean(one_off(truth, probability), subjects)
    if task == "age" and years is not None:
        error = absolute_error(years, probability, centre_years)
        known = ~np.isnan(error)
        if known.any():
            who = _numbered(subjects, len(error))[known]
            measures["mean absolute error"] = bootstrap_mean(error[known], who, unit="years")
    return _frame(measures)


def confusion_matrix(truth, probability, ordered: bool = False) -> np.ndarray:
    """Counts of faces, int64 (classes, classes): rows are the truth, columns the answers."""
    truth, probability = _checked(truth, probability)
    classes = probability.shape[1]
    cells = truth * classes + decode(probability, ordered)
    return np.bincount(cells, minlength=classes**2).reshape(classes, classes)


def per_class(truth, probability, names, ordered: bool = False) -> pd.DataFrame:
    """Of each class: precision, recall and F1 (0-1, NaN where there is no face to count), and n, its faces."""
    matrix = confusion_matrix(truth, probability, ordered)
    table = pd.DataFrame(index=pd.Index(_of_length("names", list(names), len(matrix)), name="class"))
    right, n, answered = matrix.diagonal(), matrix.sum(axis=1), matrix.sum(axis=0)
    with np.errstate(invalid="ignore"):  # 0 / 0 is the NaN that is meant
        return table.assign(precision=right / answered, recall=right / n, f1=2 * right / (n + answered), n=n)


def metric_by_group(values, scores, order=None, subjects=None) -> pd.DataFrame:
    """The mean score of each group of faces, with its 95% interval and n.

    values: (n,), each face's group, such as its gender or age group; NA goes to a last row, "unknown". scores: floats
    0-1 (n,). order: the groups in the order wanted, otherwise sorted; one that no face is in gets n = 0. Columns: those
    of `Measure`. Raises ValueError for a group that `order` lacks.
    """
    scores = np.asarray(scores, float)
    values = pd.Series(_of_length("values", np.asarray(values, object), len(scores)))
    who = _numbered(subjects, len(scores))
    found = sorted(values.dropna().unique())
    order = found if order is None else list(order)
    if set(found) - set(order):
        raise ValueError(f"groups must be among {order}, got {sorted(set(found) - set(order))}")
    masks = {name: (values == name).to_numpy(bool) for name in order}
    if values.isna().any():
        masks["unknown"] = values.isna().to_numpy()
    return _frame({name: bootstrap_mean(scores[mask], who[mask]) for name, mask in masks.items()})


def mean_over_folds(headlines) -> pd.DataFrame:
    """Each measure's mean and standard deviation (n - 1 below the line) over folds.

    headlines: one frame of `headline` a fold, in a list or a dict. Columns: mean, sd (NaN for one fold), folds (how
    many have this measure), unit, text ("50.7 ± 5.1%").
    """
    frames = list(headlines.values()) if isinstance(headlines, dict) else list(headlines)
    if not frames:
        raise ValueError("there must be at least one fold, got none")
    rows = pd.concat(frames).groupby(level=0, sort=False)
    table = rows["value"].agg(mean="mean", sd="std", folds="count").join(rows["unit"].first())
    return table.assign(text=[_spread(*row) for row in table[["mean", "sd", "unit"]].itertuples(index=False)])


def _spread(mean: float, sd: float, unit: str) -> str:
    scale, digits, sign = (100, 1, "%") if unit == "share" else (1, 2, " years")
    spread = "" if np.isnan(sd) else f" ± {sd * scale:.{digits}f}"
    return f"{mean * scale:.{digits}f}{spread}{sign}"


def _frame(measures: dict[str, Measure]) -> pd.DataFrame:
    return pd.DataFrame(list(measures.values()), index=list(measures), columns=Measure._fields)


def _ratio(sums, counts, axis=-1):
    """The mean over faces, from the sums and counts of subjects."""
    return sums.sum(axis=axis) / counts.sum(axis=axis)


def _numbered(subjects, n: int) -> np.ndarray:
    """A number for each subject, int64 (n,); faces of no known subject get one each."""
    if subjects is None:
        return np.arange(n)
    numbers, names = pd.factorize(_of_length("subjects", np.asarray(subjects, object), n))
    alone = numbers < 0
    numbers[alone] = len(names) + np.arange(alone.sum())
    return numbers


def _of_length(name: str, values, n: int):
    if len(values) != n:
        raise ValueError(f"{name} must have {n} entries, got {len(values)}")
    return values


def _checked(truth, probability) -> tuple[np.ndarray, np.ndarray]:
    probability = _checked_probability(probability)
    truth = np.asarray(truth)
    if truth.shape != probability.shape[:1]:
        raise ValueError(f"truth must have shape ({len(probability)},) as probability has, got {truth.shape}")
    classes = probability.shape[1]
    if truth.size and not (np.issubdtype(truth.dtype, np.integer) and truth.min() >= 0 and truth.max() < classes):
        raise ValueError(f"truth must be integers from 0 to {classes - 1}, got {truth[:12]} ({truth.dtype})")
    return truth.astype(int), probability


def _checked_probability(probability) -> np.ndarray:
    probability = np.asarray(probability, float)
    # One column is a lone sigmoid, whose argmax would always be class 0.
    if probability.ndim != 2 or probability.shape[1] < 2:
        raise ValueError(f"probability must have shape (n, classes), two classes or more, got {probability.shape}")
    # Written so that NaN fails too; half-precision networks miss 1 by up to 0.001 or so.
    wrong = ~((np.abs(probability.sum(axis=1) - 1) < 0.01) & (probability >= 0).all(axis=1))
    if wrong.any():
        row = wrong.argmax()
        raise ValueError(f"each row of probability must be 0 or more and sum to 1, got {probability[row]} in row {row}")
    return probability
