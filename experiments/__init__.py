"""Trains and evaluates the released models. Modules here import `src`; nothing in `src` imports them.

Reading order: `multitask`, `training_steps`, `mobilenet`, `teacher_files`, `teachers`, `train_released`; then `plots`,
`results`, `model_card`; then `ablations` and `adience_benchmark`, which stand alone.
"""
