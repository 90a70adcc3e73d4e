"""Small clip stores of rendered heads: true geometry, sound and landmarks, without any model file."""

from pathlib import Path

from src.datamodules.store import StoreWriter
from src.datamodules.synthetic.clip import synthesise_clip


def write_heads(
    root: Path,
    *,
    n_identities: int = 3,
    n_frames: int = 16,
    size: int = 32,
    splits: tuple[str, ...] = ("train", "validation"),
) -> Path:
    """A store with one clip per person; person i is of split i modulo their number."""
    with StoreWriter(root, size) as writer:
        for number in range(n_identities):
            clip = synthesise_clip(number, number, n_frames, size)
            writer.add(
                f"clip{number}",
                f"person{number}",
                [clip.frames],
                clip.landmarks,
                clip.blendshapes,
                audio=clip.audio,
                split=splits[number % len(splits)],
            )
        writer.finish()
    return root
