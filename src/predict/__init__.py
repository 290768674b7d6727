"""New photos in, a table of predictions out."""

from src.predict.predictor import Predictor, predict

__all__ = ["Predictor", "predict"]
