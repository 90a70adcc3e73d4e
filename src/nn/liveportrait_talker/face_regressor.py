"""Regressor of a 3D morphable face model (Deng et al., CVPR Workshops 2019, arXiv:1903.08527), as SadTalker uses it.

Only coefficients are needed here, never the face model itself.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torchvision.models import resnet50

FEATURES = 2048

# Coefficients in the order of the output, and how many of each.
PARTS = {
    "identity": 80,
    "expression": 64,
    "texture": 80,
    "angle": 3,
    "light": 27,
    "translation": 3,
}
_HEADS = (80, 64, 80, 3, 27, 2, 1)  # the translation has a head for x, y and one for z

INPUT_SIZE = 224


class FaceRegressor(nn.Module):
    """Aligned faces -> the 257 coefficients of `PARTS`.

    `src.face.liveportrait_talker.regressor_crop` aligns; the published weights know no other crops.
    """

    def __init__(self) -> None:
        super().__init__()
        self.backbone = resnet50(weights=None)
        self.backbone.fc = nn.Identity()
        heads = [nn.Linear(FEATURES, size) for size in _HEADS]
        for head in heads:
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)
        self.heads = nn.ModuleList(heads)

    def forward(self, faces: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 257"]:
        """Coefficients of RGB faces in [0, 1], 224 pixels wide and high."""
        features = self.backbone(faces)
        return torch.cat([head(features) for head in self.heads], dim=1)


def part(coefficients: Float[Tensor, "*b 257"], name: str) -> Float[Tensor, "*b n"]:
    """One of `PARTS`."""
    sizes = list(PARTS.values())
    start = sum(sizes[: list(PARTS).index(name)])
    return coefficients[..., start : start + PARTS[name]]


def motion_coefficients(coefficients: Float[Tensor, "*b 257"]) -> Float[Tensor, "*b 70"]:
    """What SadTalker keeps: expression (64), angle (3), translation (3)."""
    return torch.cat([part(coefficients, name) for name in ("expression", "angle", "translation")], dim=-1)
