"""Predictions for new photos, videos and cameras."""

from src.predict.predictor import Predictor, predict

__all__ = ["Predictor", "predict"]
