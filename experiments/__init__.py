"""Trains and evaluates the released models. Modules here import `src`; nothing in `src` imports them.

Reading order: `train_released`, `training_steps`, `multitask`, `teachers` with `mobilenet` and `teacher_files`; then
`results`, `plots` and `model_card`; then `ablations` and `adience_benchmark`, which nothing else needs.
"""
