"""Networks of LivePortrait (arXiv:2407.03168) and the algebra of its key points.

The paper's letters: F `AppearanceFeatureExtractor`, M `MotionExtractor`, W `WarpingModule`, G `SPADEDecoder`, S and R `KeypointMLP`.
"""

from src.nn.liveportrait.appearance import AppearanceFeatureExtractor
from src.nn.liveportrait.generator import SPADEDecoder
from src.nn.liveportrait.keypoints import Motion
from src.nn.liveportrait.motion_extractor import MotionExtractor
from src.nn.liveportrait.portrait import LivePortrait
from src.nn.liveportrait.retargeting import KeypointMLP
from src.nn.liveportrait.warping import Warped, WarpingModule

__all__ = [
    "AppearanceFeatureExtractor",
    "KeypointMLP",
    "LivePortrait",
    "Motion",
    "MotionExtractor",
    "SPADEDecoder",
    "Warped",
    "WarpingModule",
]
