"""How well doubted labels are the wrong ones: labels of UTKFace's test part are made wrong and looked for.

    python benchmarks/label_noise.py /path/to/UTKFace [--faces 2000] [--wrong 0.05]

The released models did not train on these faces nor on a copy of one. A share of the genders is swapped, and of the ages
exchanged for those of other faces. Printed: how well each score ranks the changed labels (area under the ROC curve and
average precision, 0-1), and what flagging finds. For gender, confident learning (cleanlab's) ranks two classes as the plain
probability does.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.metrics import average_precision_score, roc_auc_score

from experiments.results import evaluate_released, load_released
from src.config import AGE_GROUPS, CACHE, SEED
from src.evaluation.calibration import sum_to_groups
from src.evaluation.label_noise import UNLIKELY, label_doubts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--faces", type=int, default=2000)
    parser.add_argument("--wrong", type=float, default=0.05)
    parser.add_argument("--runs", type=Path, default=CACHE, help="where aligned faces are kept (default: %(default)s)")
    options = parser.parse_args()
    judged = evaluate_released("utkface", options.folder, load_released(), options.runs)
    table = judged.table.head(options.faces)
    rows = np.arange(len(table))
    gender, age = (judged.answers[task][rows] for task in ("gender", "age"))

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
        "age: tails of the distribution (ours)": (found["age_doubt"], wrong_age),
        "age: 1 - probability of the label's group (cleanlab's self-confidence)": (1 - of_label, wrong_age),
        "age: years from the median": (np.abs(changed["age_low"].to_numpy(float) - median), wrong_age),
    }
    ranked = [(name, roc_auc_score(bad, s), average_precision_score(bad, s), bad.sum()) for name, (s, bad) in scores.items()]
    print(pd.DataFrame(ranked, columns=["score", "area", "average precision", "wrong"]).round(3).to_string(index=False))
    wrong = swapped | wrong_age
    flagged = found["suspect"].to_numpy()
    print(
        f"flagged at {UNLIKELY}: {flagged.sum()} of {len(table)}; {(flagged & wrong).sum()} of the {wrong.sum()} wrong ones "
        f"({(flagged & wrong).sum() / wrong.sum():.1%}), {(flagged & ~wrong).sum()} of the {(~wrong).sum()} others"
    )


if __name__ == "__main__":
    main()
