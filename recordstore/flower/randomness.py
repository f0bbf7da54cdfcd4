"""The global random generators of Python and NumPy, which strategies draw from: sampled clients, noise."""

import random
from typing import Any

import numpy as np

from recordstore.exceptions import CorruptRecordError
from recordstore.flower.codec import Encoder
from recordstore.flower.decoder import Decoder


def save_random(encoder: Encoder, *, private: bool) -> dict[str, Any]:
    """Return the states of the generators, for JSON.

    ``private`` leaves NumPy's out: differential-privacy wrappers take their noise from it, and the same noise on two
    models tells their difference.
    """
    states = {"python": encoder.encode(random.getstate(), "random")}
    if not private:
        states["numpy"] = encoder.encode(np.random.get_state(legacy=False), "numpy_random")  # noqa: NPY002
    return states


def restore_random(saved: dict[str, Any], decoder: Decoder, *, private: bool) -> None:
    """Set the generators to saved states."""
    try:
        if "python" in saved:
            random.setstate(decoder.decode(saved["python"]))
        if "numpy" in saved and not private:
            np.random.set_state(decoder.decode(saved["numpy"]))  # noqa: NPY002
    except (TypeError, ValueError, LookupError) as error:
        raise CorruptRecordError(f"the random state in the checkpoint cannot be understood: {error}") from error
