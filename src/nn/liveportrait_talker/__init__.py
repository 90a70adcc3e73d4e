"""The networks between a voice and LivePortrait's lips."""

from src.nn.liveportrait_talker.exp_net import ExpNet
from src.nn.liveportrait_talker.face_regressor import FaceRegressor, motion_coefficients
from src.nn.liveportrait_talker.mapping_net import (
    INFERENCE_WINDOW,
    TRAINING_WINDOW,
    MappingNet,
    coefficient_windows,
    lip_loss,
    lip_targets,
)
from src.nn.liveportrait_talker.pose_vae import PoseVAE
from src.nn.liveportrait_talker.speech_encoder import SpeechEncoder
from src.nn.liveportrait_talker.talking_portrait import TalkingPortrait

__all__ = [
    "INFERENCE_WINDOW",
    "TRAINING_WINDOW",
    "ExpNet",
    "FaceRegressor",
    "MappingNet",
    "PoseVAE",
    "SpeechEncoder",
    "TalkingPortrait",
    "coefficient_windows",
    "lip_loss",
    "lip_targets",
    "motion_coefficients",
]
