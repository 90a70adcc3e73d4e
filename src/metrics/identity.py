"""Whether the generated face is the same person: cosine similarity of identity embeddings (CSIM)."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torchmetrics import Metric

FACES_PER_BATCH = 32


@torch.inference_mode()
def embed_faces(network: nn.Module, faces: UInt8[Tensor, "t 3 112 112"]) -> Float[Tensor, "t 512"]:
    """Embeddings of aligned RGB faces (`src.face.arcface_crop`) by ArcFace's network."""
    device = next(network.parameters()).device
    parts = [network((part.to(device).float() / 255 - 0.5) / 0.5) for part in faces.split(FACES_PER_BATCH)]
    return torch.cat(parts)


class IdentitySimilarity(Metric):
    """CSIM, -1 to 1, higher is more alike: mean over frames of the cosine between embeddings of generated and reference faces.

    Attributes:
        frames: number of frames that count.
        skipped: number of frames without a face in one of the two.
    """

    full_state_update = False
    higher_is_better = True
    total: Tensor
    frames: Tensor
    skipped: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("frames", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("skipped", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, generated: Float[Tensor, "t d"], reference: Float[Tensor, "r d"]) -> None:
        """Add frames.

        Args:
            generated: embeddings; rows of NaN where no face was found.
            reference: of the same frames, or one row: of the source picture.
        """
        cosines = F.cosine_similarity(generated.double(), reference.double().expand(len(generated), -1))
        found = cosines.isfinite()
        self.total += cosines[found].sum()
        self.frames += found.sum()
        self.skipped += (~found).sum()

    def compute(self) -> Float[Tensor, ""]:
        """Mean over the frames; NaN when there is none."""
        return (self.total / self.frames).float()
