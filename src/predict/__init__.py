"""Predictions for new photos, videos and cameras."""

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
