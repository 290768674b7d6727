"""How should the age model's probabilities be turned into an answer? Likeliest or median class, with and without a mirror.

    python benchmarks/answers.py /path/to/UTKFace

Choose by the validation rows; the test rows are there to see whether the choice held.
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd

from src import datasets, evaluate, model_folder, prepare, tables
from src.config import AGE_GROUPS, MODELS


def main(folder: Path) -> None:
    trained = model_folder.load(MODELS / "age")
    table = datasets.load("utkface", folder).table
    prepared = prepare.prepare(table, folder, trained.alignment)
    print(pd.Series(prepared.how).value_counts().to_dict())
    labels = tables.for_task(table, "age", AGE_GROUPS["adience"]).table["label"].to_numpy()
    part = tables.split(table)
    rows = []
    for name in ("validation", "test"):
        chosen = np.flatnonzero(part == name)
        faces = np.asarray(prepared.faces[chosen])
        plain, mirrored = (trained.model.predict(some, verbose=0) for some in (faces, faces[:, :, ::-1]))
        for mirror, probability in (("no", plain), ("yes", (plain + mirrored) / 2)):
            for rule, ordered in (("likeliest", False), ("median", True)):
                off = abs(evaluate.answer(probability, ordered) - labels[chosen])
                rows.append((name, mirror, rule, f"{(off == 0).mean():.1%}", f"{(off <= 1).mean():.1%}", len(chosen)))
    print(pd.DataFrame(rows, columns=["part", "mirror", "answer", "exact", "within one", "n"]).to_string(index=False))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
