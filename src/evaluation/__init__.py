"""How good predictions are.

Reading order: `metrics`, `calibration`, `subgroups`, `label_noise`, `plots`.
"""
