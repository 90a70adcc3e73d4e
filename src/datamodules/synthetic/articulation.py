"""What synthetic heads say, as expression coefficients: where a network like SadTalker's ExpNet hears, here it is known.

The phonemes of a clip ask for positions of the articulators (`speech.articulate`); a fixed matrix mixes these into coefficients, as the
axes of a face model are no articulators either. Nothing of the person goes into them: not the shape of the face, nor how far this mouth
opens, nor smiles, nor the pose of the head.
"""

import re
from typing import Any

import numpy as np
from jaxtyping import Float32

from src.audio.features import FPS
from src.datamodules.synthetic.identity import draw_identity
from src.datamodules.synthetic.speech import ARTICULATORS, articulate, spoken
from src.errors import FeatureError

_SOURCE = re.compile(r"synthetic/(?P<person>\d+)/(?P<take>\d+)")


class ArticulationFeatures:
    """Coefficients of the speech of synthetic heads, one row per video frame.

    Args:
        dim: numbers per row.
        name: of the folder in a clip store.
    """

    def __init__(self, dim: int = 64, name: str = "articulation") -> None:
        self.name = name
        self.dim = dim

    @property
    def settings(self) -> dict[str, Any]:
        """Width."""
        return {"features": "articulation", "dim": self.dim}

    def read(self, id: str, n_frames: int, source: str = "", start: float | int = 0.0) -> Float32[np.ndarray, "t d"]:
        """Rows of a clip, at the middles of its frames.

        Args:
            id: of the clip.
            n_frames: of the clip, at 25 fps.
            source: what the store says of the clip's origin: which person, which take.
            start: seconds into the take; clips are whole takes.

        Raises:
            FeatureError: the clip shows no synthetic head.
        """
        found = _SOURCE.fullmatch(source)
        if found is None:
            raise FeatureError(
                f"Clip {id} shows no synthetic head: what is said in it is not known; choose other features."
            )
        utterance, _ = spoken(draw_identity(int(found["person"])), int(found["take"]), n_frames / FPS)
        positions = articulate(utterance, start + (np.arange(n_frames) + 0.5) / FPS)
        tracks = np.stack([positions[name] for name in ARTICULATORS], axis=1)
        mixture = np.random.default_rng(0).standard_normal((len(ARTICULATORS), self.dim))
        return (tracks @ mixture).astype(np.float32)
