"""SadTalker's ExpNet (arXiv:2211.12194, section 3.2): what a voice does to the expression coefficients of a face."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from src.nn.liveportrait_talker.speech_encoder import EMBEDDING, SpeechEncoder

EXPRESSIONS = 64  # coefficients of the 3D morphable model's expression


class ExpNet(nn.Module):
    """Mel windows and a reference expression -> expression coefficients, frame by frame.

    The output is the expression itself, no offset from the reference. The network was trained with a blink signal; the talker
    leaves blinks to LivePortrait and hands it zeros.
    """

    def __init__(self) -> None:
        super().__init__()
        self.encoder = SpeechEncoder()
        self.head = nn.Linear(EMBEDDING + EXPRESSIONS + 1, EXPRESSIONS)
        nn.init.zeros_(self.head.bias)

    def forward(
        self,
        mels: Float[Tensor, "b t 80 16"],
        reference: Float[Tensor, "b t 64"],
        blink: Float[Tensor, "b t 1"] | None = None,
    ) -> Float[Tensor, "b t 64"]:
        """Expression coefficients per frame.

        Args:
            mels: one window per frame.
            reference: expression of the source face, the same on every frame.
            blink: closing of the eyes, 0 (open) to 1; None: zeros.
        """
        blink = torch.zeros_like(reference[..., :1]) if blink is None else blink
        return self.head(torch.cat([self.encoder(mels), reference, blink], dim=-1))
