"""How well `label_doubts` finds wrong labels: some labels of UTKFace's test faces are changed, then searched for.

    python -m benchmarks.label_noise /path/to/UTKFace [--faces 2000] [--wrong 0.05] [--csv FILE]

The released models were not trained on these faces nor on a copy of one. A share of the genders is swapped, and of the ages
exchanged for those of other faces. The output is the area under the ROC curve and the average precision of each score, and
the number of wrong labels that are flagged.
"""

from pathlib import Path

import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score

from benchmarks.common import parser, report
from experiments.results import evaluate_released, load_released
from src.config import AGE_GROUPS, CACHE, SEED
from src.evaluation.calibration import sum_to_groups
from src.evaluation.label_noise import SUSPECT_DOUBT, label_doubts


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("folder", type=Path)
    arguments.add_argument("--faces", type=int, default=2000)
    arguments.add_argument("--wrong", type=float, default=0.05)
    arguments.add_argument("--runs", type=Path, default=CACHE, help="folder for aligned faces (default: %(default)s)")
    options = arguments.parse_args()
    evaluation = evaluate_released("utkface", options.folder, load_released(), options.runs)
    table = evaluation.table.head(options.faces)
    rows = np.arange(len(table))
    gender, age = (evaluation.probabilities[task][rows] for task in ("gender", "age"))

    rng = np.random.default_rng(SEED)
    swapped, exchanged = rng.random((2, len(table))) < options.wrong
    changed = table.copy()
    changed.loc[swapped, "gender"] = changed["gender"][swapped].map({"female": "male", "male": "female"})
    years = table["age_low"].to_numpy()[rng.permutation(len(table))]
    changed.loc[exchanged, ["age_low", "age_high"]] = np.column_stack([years, years])[exchanged]
    wrong_age = (changed["age_low"] - table["age_low"]).abs().to_numpy() > 10
    found = label_doubts(changed, gender, age)

    groups = AGE_GROUPS["adience"]
    label = groups.index(changed["age_low"].to_numpy(float), changed["age_high"].to_numpy(float))
    of_label = sum_to_groups(age, groups)[rows, label]
    median = (np.cumsum(age, axis=1) < 0.5).sum(axis=1)
    scores = {
        "gender: probability of the other": (found["gender_doubt"], swapped),
        "age: tails of the distribution (label_doubts)": (found["age_doubt"], wrong_age),
        "age: 1 - probability of the label's group (cleanlab's self-confidence)": (1 - of_label, wrong_age),
        "age: years from the median": (np.abs(changed["age_low"].to_numpy(float) - median), wrong_age),
    }
    rows = [
        {"score": name, "area": roc_auc_score(bad, score), "average precision": average_precision_score(bad, score)}
        for name, (score, bad) in scores.items()
    ]
    report(rows, options.csv)
    wrong = swapped | wrong_age
    flagged = found["suspect"].to_numpy()
    print(
        f"flagged at {SUSPECT_DOUBT}: {flagged.sum()} of {len(table)} faces, "
        f"{(flagged & wrong).sum()} of the {wrong.sum()} wrong ones "
        f"({(flagged & wrong).sum() / wrong.sum():.1%}), {(flagged & ~wrong).sum()} of the {(~wrong).sum()} others"
    )


if __name__ == "__main__":
    main()
