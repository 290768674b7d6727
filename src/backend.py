"""Keras, imported without the pages that TensorFlow logs while it starts; other modules take it from here."""

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def _silent_stderr() -> Iterator[None]:
    # TensorFlow's first messages come from C++, before any of its own settings on logging are heeded.
    kept = os.dup(2)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(null)


os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
with _silent_stderr():
    import keras
    from keras import layers, ops

__all__ = ["keras", "layers", "ops"]
