"""LRS3 in GeneFace's binary form, as AToM was trained on it, written into a clip store.

    <raw>/train.data, val.data    see `src.datamodules.moditalker_atom_layout`

The files hold neither video nor sound. What AToM learns from goes into the store's folder `features` as it is: `hubert_pairs`, two rows of
HuBERT per frame, and `idexp_lm3d`, landmarks in network units. So that the clips can be looked at, each has a small video of its
landmarks, on the average face in place of the mean face of the original's model, whose licence does not allow it to come along, and
as MediaPipe's 478 points.
"""

import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from src.adapters.indexed_dataset import IndexedDataset
from src.audio.hubert_pairs import HubertPairs, paired
from src.datamodules.moditalker_atom_layout import ANGLES, TRANSLATION
from src.datamodules.speech_features import OTHER_SETTINGS
from src.datamodules.store import StoreWriter
from src.datamodules.tables import require_settings, save_array
from src.errors import ConfigError, StoreError
from src.face.drawing import draw_points
from src.face.mesh_motion import spread
from src.face.moditalker_atom import NETWORK_UNIT, neutral_mesh
from src.face.moditalker_atom_exact import rotations
from src.face.topology import IBUG68

log = logging.getLogger(__name__)

FILES = {"train": "train", "validation": "val"}
MOTION = "idexp_lm3d"
PARTS = ("hubert", "coeff", MOTION, "item_id", "spk_id")  # of an item
BLENDSHAPES = 52


class LRS3Binary:
    """Writes the clip store of such a folder; a run that was interrupted goes on where it stopped.

    Args:
        name: for messages.
        size: side of the videos of landmarks, pixels.
        features: of the rows that the files hold.
    """

    def __init__(self, name: str = "lrs3_binary", size: int = 64, features: HubertPairs | None = None) -> None:
        self.name = name
        self.size = size
        self.features = features or HubertPairs()

    def write_store(self, raw: Path, root: Path) -> int:
        """Write what the store lacks; returns the number of clips written.

        Raises:
            ConfigError: the folder has none of the files.
            StoreError: one is damaged, or names what is no data.
        """
        files = {split: raw / f"{name}.data" for split, name in FILES.items() if (raw / f"{name}.data").is_file()}
        if not files:
            raise ConfigError(f"raw={raw} holds neither train.data nor val.data: give the folder of GeneFace's LRS3.")
        for name, settings in ((self.features.name, self.features.settings), (MOTION, {"motion": MOTION})):
            require_settings(root / "features" / name, settings, OTHER_SETTINGS)
        written = 0
        with StoreWriter(root, self.size, settings={"dataset": self.name, "size": self.size}) as writer:
            for split, path in files.items():
                for number, item in enumerate(_items(path)):
                    id = re.sub(r"[^A-Za-z0-9_-]", "_", str(item["item_id"]))
                    if id not in writer:
                        self._add(writer, root, id, split, item, f"{path.name}#{number}")
                        written += 1
            writer.finish()
        log.info("%s: %d clips written", root, written)
        return written

    def _add(self, writer: StoreWriter, root: Path, id: str, split: str, item: Mapping[str, Any], source: str) -> None:
        """The rows first: a clip that is listed has them."""
        motion = np.asarray(item[MOTION], np.float32)
        n_frames = len(motion)
        save_array(root / "features" / MOTION / f"{id}.npy", motion.reshape(n_frames, -1))
        rows = paired(np.asarray(item["hubert"], np.float32), n_frames)
        save_array(root / "features" / self.features.name / f"{id}.npy", rows)
        landmarks = posed_mesh(motion, np.asarray(item["coeff"], np.float32), self.size)
        frames = draw_points(
            np.zeros((n_frames, self.size, self.size, 3), np.uint8), landmarks[:, IBUG68, :2], colour=(255, 255, 255), radius=0
        )  # fmt: skip
        blendshapes = np.zeros((n_frames, BLENDSHAPES), np.float32)
        writer.add(id, str(item["spk_id"]), [frames], landmarks, blendshapes, split=split, source=source)


def posed_mesh(
    motion: Float32[np.ndarray, "t 68 3"], coefficients: Float32[np.ndarray, "t 257"], size: int
) -> Float32[np.ndarray, "t 478 3"]:
    """All landmarks in pixels, as the original's regressor saw the face, of motion in network units."""
    faces = neutral_mesh() + spread(motion / NETWORK_UNIT)
    posed = faces @ rotations(coefficients[:, ANGLES]) + coefficients[:, None, TRANSLATION]
    half = size / 2
    pixels = posed * np.array([half, -half, -half])
    pixels[..., :2] += half
    return pixels.astype(np.float32)


def _items(path: Path) -> Iterator[Mapping[str, Any]]:
    """The items of a file that have frames."""
    for number, item in enumerate(IndexedDataset(path)):
        absent = [part for part in PARTS if not isinstance(item, Mapping) or part not in item]
        if absent:
            raise StoreError(f"{path}: item {number} lacks {absent[0]}: give the files that GeneFace publishes.")
        if len(item[MOTION]):
            yield item
