"""Networks of AToM, MoDiTalker's first stage (arXiv:2403.19144): speech features and a reference face -> motion of 68 landmarks."""

from src.nn.moditalker_atom.decoder import MotionDecoder
from src.nn.moditalker_atom.published import PublishedMotionDecoder
from src.nn.moditalker_atom.regions import LIP_RELATED, N_POINTS, N_VALUES, UNRELATED

__all__ = ["LIP_RELATED", "N_POINTS", "N_VALUES", "UNRELATED", "MotionDecoder", "PublishedMotionDecoder"]
