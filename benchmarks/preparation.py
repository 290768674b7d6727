"""Preparation: how fast and how completely faces are prepared.

    python -m benchmarks.preparation utkface /path/to/UTKFace [--faces 3000] [--csv FILE]

Gives faces per second on all cores, and the share of each result.
"""

import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.common import Clock, parser, report
from src import data
from src.config import SEED
from src.faces import prepare


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("dataset", choices=data.NAMES)
    arguments.add_argument("folder", type=Path, nargs="?", default="")
    arguments.add_argument("--faces", type=int, default=3000, help="random pictures (default: %(default)s)")
    options = arguments.parse_args()
    folder = data.resolve_folder(options.dataset, options.folder)
    table = data.load(options.dataset, folder).table
    table = table.sample(min(options.faces, len(table)), random_state=SEED).reset_index(drop=True)
    prepare_all(table.head(200), folder)  # starts the workers, which a long run does once
    rate, results = prepare_all(table, folder)
    rows = [{"what": "faces a second, all cores", "value": rate, "n": len(table)}]
    rows += [{"what": f"share: {name}", "value": share, "n": len(table)} for name, share in results.items()]
    report(rows, options.csv)


def prepare_all(table: pd.DataFrame, folder: Path) -> tuple[float, pd.Series]:
    """Faces per second, and the share of each alignment source or reason, in a cache that is deleted."""
    with tempfile.TemporaryDirectory() as cache:
        with Clock() as clock:
            prepared = prepare.prepare(table, folder, cache=Path(cache))
        results = pd.Series(np.where(prepared.alignment_source == "", prepared.reason, prepared.alignment_source))
        return len(table) / clock.wall, results.value_counts(normalize=True)


if __name__ == "__main__":
    main()
