"""Predictions for new photos, videos and cameras.

Reading order: `predictor` (lists the steps), `extract_faces`, `inference`, `annotate` with `placement`; `__main__` with
`table_file`; `tracks`, `video`, `camera`, `demo`; then what the notebooks show: `explain`, `prediction_plots`, `upload`.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from src.predict.predictor import Predictor, predict

__all__ = ["Predictor", "predict"]


def __getattr__(name: str):
    """Imports `Predictor` and `predict` on first use, because worker processes need only `extract_faces` and start faster."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from src.predict import predictor

    return getattr(predictor, name)
