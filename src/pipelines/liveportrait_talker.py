"""LivePortraitTalker: a portrait or a video of a person, and a voice -> the person says it.

SadTalker's ExpNet hears expression coefficients in the voice, MappingNet turns them into LivePortrait's lip key points, and LivePortrait
draws the frames. Head pose is no network's: it sways while the lips speak, is that of a reference video, or stays as it is.
"""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64, UInt8
from torch import Tensor, nn

from src.audio.features import FPS
from src.audio.sadtalker_mel import mel_windows
from src.checkpoint import weights_sha256
from src.datamodules.store import Clip
from src.diffusion.pixels import Rounding
from src.errors import ConfigError, FaceError, MediaError, require_choice, require_least
from src.face.alignment import Alignment
from src.face.landmarks import rescaled, to_ibug68
from src.face.liveportrait_crop import WholeFrame, feathered_mask, ratios
from src.face.liveportrait_talker import (
    CROP_SIZE,
    TalkerAlignment,
    cropped_rectangles,
    frontality,
    paste_rectangles,
    regressor_crop,
)
from src.media import read_image, resize
from src.media.looping import ping_pong
from src.nn.liveportrait import Motion
from src.nn.liveportrait.keypoints import kalman_smooth
from src.nn.liveportrait_talker.blinks import draw_blinks, eye_openings
from src.nn.liveportrait_talker.driving import Eyes, driving_key_points
from src.nn.liveportrait_talker.head_motion import SMOOTHING, Sway, synthetic_rotations
from src.nn.liveportrait_talker.mapping_net import INFERENCE_WINDOW, LOWER_UPPER_LIP
from src.pipelines.footage import Footage, Frames, read_footage
from src.pipelines.head_pose_cache import cached_rotations, chosen_rotations
from src.pipelines.liveportrait import Given, LivePortraitPipeline, Paste, Plan, limited, to_pictures
from src.pipelines.published_networks import talking_portrait
from src.pipelines.sources import stored_clip
from src.pipelines.video import GENERATED, Video
from src.pipelines.voices import choose_sound

log = logging.getLogger(__name__)

MOST_GAZE = 15.0  # of `pupil_x` and `pupil_y`; further, eyes tear
_PROFILE = 0.35  # of `frontality`: below, half of the face is hardly seen


@dataclass(frozen=True)
class HeadPose:
    """Where the head's rotation comes from: the options `still`, `ref_head_pose`, `ref_frames_from_zero`, `head_pose_cache`, `sway`."""

    still: bool
    reference: str | Path | Clip | None
    from_zero: bool
    cache: Path | None
    sway: float


class LivePortraitTalkerPipeline:
    """Makes a face say a voice, at 25 frames per second.

    The original is `paste="rectangle"` where it pastes, `crop_smoothing=0`, `rounding="down"`; see `conf/pipeline/liveportrait_talker.yaml`
    for the names that its options had.

    Args:
        model: all networks, or what `train.py` trained of them: MappingNet.
        models: where the other networks are then: a folder of published files, or what `tools/convert_checkpoint.py` made of it; None:
            the folder of downloaded models.
        still: the head of a picture keeps its pose, and the face is pasted back.
        ref_head_pose: a video (or picture) whose head rotations are taken over.
        ref_frames_from_zero: begin with its first frame; False: anywhere.
        head_pose_cache: folder that keeps rotations of reference videos; None: find them every time.
        first_frame: of a source video, animate the first frame that shows a face, as if it were a picture.
        sway: factor of the synthetic head motion, whose amplitude is at most 3 degrees.
        blinks: the eyes of a picture blink now and then.
        pupil_x: gaze to the right, -15 to 15.
        pupil_y: gaze up, -15 to 15.
        lip_multiplier: of the lips' movement.
        multiplier: of all movement.
        stitching: keep the borders of the crop where they are.
        smoothing: observation variance of the Kalman smoother over head rotations and lips; larger is smoother.
        crop: show the networks the face's surroundings; False: the whole frame, squeezed to a square.
        crop_smoothing: of the crops of a video along time, standard deviation in frames.
        paste: put the face back into the whole frame with `feathered` borders, or with the original's `rectangle`; `none`: the crop alone;
            None: `feathered` where the pose of the head stays, the crop alone where a picture's head moves.
        feather: width of those borders, in sides of the crop.
        max_side: shrink source frames whose longer side is longer; None: keep their size.
        division: cut frames to sides that are multiples of this.
        frame_limit: make at most so many frames.
        batch_size: frames at a time; changes memory and speed, not the result.
        face_model: path of MediaPipe's FaceLandmarker; None: in the models folder.
        rounding: of grey levels; `down` as the original truncates them.

    Raises:
        ConfigError: a setting that cannot be used.
        CheckpointError: published files are missing (all are named), or damaged.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        models: str | Path | None = None,
        still: bool = False,
        ref_head_pose: str | Path | Clip | None = None,
        ref_frames_from_zero: bool = False,
        head_pose_cache: str | Path | None = "out/head_poses",
        first_frame: bool = False,
        sway: float | int = 1.0,
        blinks: bool = True,
        pupil_x: float | int = 0.0,
        pupil_y: float | int = 0.0,
        lip_multiplier: float | int = 1.0,
        multiplier: float | int = 1.0,
        stitching: bool = True,
        smoothing: float | int = SMOOTHING,
        crop: bool = True,
        crop_smoothing: float | int = 6.0,
        paste: Paste | None = None,
        feather: float | int = 0.12,
        max_side: int | None = None,
        division: int = 2,
        frame_limit: int | None = None,
        batch_size: int = 8,
        face_model: str | Path | None = None,
        rounding: Rounding = "nearest",
    ) -> None:
        if paste is not None:
            require_choice("pipeline.paste", paste, get_args(Paste))
        for name, value in (("sway", sway), ("smoothing", smoothing), ("crop_smoothing", crop_smoothing)):
            require_least(f"pipeline.{name}", value, 0)
        for name, value in (("pupil_x", pupil_x), ("pupil_y", pupil_y)):
            if not -MOST_GAZE <= value <= MOST_GAZE:
                raise ConfigError(f"pipeline.{name}={value}: give {-MOST_GAZE:g} to {MOST_GAZE:g}.")
        self.model = talking_portrait(model, models)
        self.renderer = LivePortraitPipeline(
            self.model,
            paste="none",
            feather=feather,
            max_side=max_side,
            division=division,
            frame_limit=frame_limit,
            batch_size=batch_size,
            rounding=rounding,
        )
        side = self.model.output_size
        self.crop_smoothing = float(crop_smoothing)
        self.reference_alignment: Alignment = TalkerAlignment(side, smoothing=crop_smoothing)
        self.source_alignment: Alignment = self.reference_alignment if crop else WholeFrame(side)
        cache = None if head_pose_cache is None else Path(head_pose_cache)
        self.head_pose = HeadPose(still, ref_head_pose, ref_frames_from_zero, cache, float(sway))
        self.first_frame = first_frame
        self.blinks = blinks
        self.pupils = (float(pupil_x), float(pupil_y))
        self.lip_multiplier, self.multiplier = float(lip_multiplier), float(multiplier)
        self.stitching = self.model.stitching if stitching else None
        self.smoothing = float(smoothing)
        self.paste: Paste | None = paste
        self.mask = feathered_mask(side, feather)[None, ..., None]
        self.max_side, self.division = max_side, division
        self.frame_limit = frame_limit
        self.face_model = face_model

    @property
    def device(self) -> torch.device:
        """Where the frames are made."""
        return self.model.device

    def __call__(
        self,
        source: Given | None = None,
        audio: str | Path | Clip | Float32[np.ndarray, " s"] | None = None,
        driving: str | Path | Clip | None = None,
        *,
        seed: int = 1,
    ) -> Video:
        """The video, made when it is read; as long as the sound, to whole frames.

        Args:
            source: who speaks: a picture, a video, or a clip of a clip store, `STORE@CLIP_ID`.
            audio: the voice, of any rate; None: that of `driving`, else that of the source.
            driving: a video whose sound is taken; for its head pose see `ref_head_pose`.
            seed: of the head's sway, the blinks, and where the reference video begins.

        Raises:
            ConfigError: source or voice is missing.
            FaceError: there is no face in the source or the reference, or the landmark model is missing.
            FeatureError: the sound is shorter than a frame.
            MediaError, StoreError: a file cannot be read.
        """
        if source is None:
            raise ConfigError("liveportrait_talker needs a face and a voice: give source=FACE and audio=SPEECH.")
        samples, sound = choose_sound(source, audio, driving)
        plan = replace(self.plan(source, samples, seed), sound=sound)
        paste = self.paste or ("feathered" if self.head_pose.still or len(plan.source) > 1 else "none")
        side = self.model.output_size
        size = (side, side) if paste == "none" else plan.source.size
        return Video(lambda: self.render(plan, paste), float(FPS), len(plan), size, plan.sound)

    # --- from a face and a voice to key points

    @torch.inference_mode()
    def plan(self, source: Given, samples: Float32[np.ndarray, " s"], seed: int = 1) -> Plan:
        """Key points of every frame, in float32: they cost little. Arguments and errors as of a call."""
        mels = mel_windows(samples)
        n = len(mels) if self.frame_limit is None else min(len(mels), self.frame_limit)
        # The first frame with a face may come late in a video.
        needed = None if self.first_frame or _is_picture(source) else n
        remembered = self.renderer.remembered
        shown = remembered(source, f"source {needed}", lambda: self._source(source, needed))
        with torch.autocast(self.device.type, enabled=False):
            used = min(len(shown), n)
            motion = remembered(source, f"motion {used}", lambda: self.renderer.motion(shown, used))
            lips = self.lip_multiplier * self._lips(shown, mels[: n + INFERENCE_WINDOW[1]])[:n]
            picture = len(shown) == 1
            if not picture:
                order = ping_pong(len(motion), n)
                shown, motion = reordered(shown, order), motion[torch.from_numpy(order).to(self.device)]
            x_s, x_d = driving_key_points(
                motion,
                lips,
                self._rotations(motion, lips, picture, seed),
                stitching=self.stitching,
                eyes=self._eyes(shown, n, seed) if picture else None,
                pupils=self.pupils,
                multiplier=self.multiplier,
                smoothing=self.smoothing,
            )
            volume = remembered(source, "volume", lambda: self.renderer.volume(shown)) if picture else None
        return Plan(shown, shown, x_s, x_d, volume=volume)

    def _source(self, source: Given, needed: int | None) -> Footage:
        """The person who speaks, as far as so many frames need; a warning where the face is hardly seen."""
        shown = read_footage(source, self.source_alignment, face_model=self.face_model, needed=needed)
        shown = limited(shown, self.max_side, self.division)
        if self.first_frame and len(shown) > 1:
            shown = reordered(shown, np.array([shown.first]))
        if frontality(_points(shown)) < _PROFILE:
            log.warning("source: the face is turned away or covered; a picture from the front gives better results")
        return shown

    def _lips(self, shown: Footage, mels: Float32[np.ndarray, "t 80 16"]) -> Float[Tensor, "t 6 3"]:
        """MappingNet's output for a voice, said by the person of the first frame."""
        face = resize(shown.crops([0])[0], (CROP_SIZE, CROP_SIZE))
        points = rescaled(_points(shown), shown.crop_size, (CROP_SIZE, CROP_SIZE))
        aligned = to_pictures(regressor_crop(face, points).image[None]).to(self.device)
        return self.model.lips(torch.from_numpy(mels).to(self.device), self.model.expression(aligned))

    def _rotations(
        self, motion: Motion, lips: Float[Tensor, "t 6 3"], picture: bool, seed: int
    ) -> Float[Tensor, "t 3 3"] | None:
        """Rotations of the head, smoothed; None: the source's."""
        if self.head_pose.reference is not None:
            rng = None if self.head_pose.from_zero else np.random.default_rng([seed, 1])
            chosen = chosen_rotations(self._reference_rotations(self.head_pose.reference), len(lips), rng)
            return kalman_smooth(torch.from_numpy(chosen), self.smoothing).to(self.device)
        if self.head_pose.still or not picture:
            return None
        sway = Sway.draw(len(lips), torch.Generator().manual_seed(seed))
        sway = replace(sway, amplitude=self.head_pose.sway * sway.amplitude)
        degrees = torch.cat([motion.pitch, motion.yaw, motion.roll], dim=1)[0].cpu()
        mouth = lips[:, list(LOWER_UPPER_LIP)].cpu()
        return synthetic_rotations(mouth, sway, degrees, smoothing=self.smoothing).to(self.device)

    def _eyes(self, shown: Footage, n: int, seed: int) -> Eyes:
        """How far the eyes of a picture are open, with blinks where they are wanted."""
        source = ratios(np.asarray(shown.landmarks))[0][0]
        rng = np.random.default_rng([seed, 2])
        starts = draw_blinks(n, lambda low, high: int(rng.integers(low, high))) if self.blinks else []
        driving = eye_openings(n, starts, *source.tolist())[:, 0]
        return Eyes(self.model.eyes, torch.from_numpy(source).float().to(self.device), driving.to(self.device))

    # --- the head pose of another video

    def _reference_rotations(self, reference: str | Path | Clip) -> Float32[np.ndarray, "t 3 3"]:
        """Rotations of every frame of the reference video, from the cache where they are there."""
        if self.head_pose.cache is None or stored_clip(reference) is not None:
            return self._found_rotations(reference)
        assert not isinstance(reference, Clip)
        made_by = f"{weights_sha256(self.model.motion_extractor.state_dict())[:12]}-{self.crop_smoothing:g}"
        return cached_rotations(reference, self.head_pose.cache / made_by, lambda: self._found_rotations(reference))

    def _found_rotations(self, reference: str | Path | Clip) -> Float32[np.ndarray, "t 3 3"]:
        try:
            footage = read_footage(reference, self.reference_alignment, face_model=self.face_model)
        except FaceError as error:
            raise FaceError(str(error).replace("source=", "pipeline.ref_head_pose=", 1)) from error
        return self.renderer.motion(footage, len(footage)).rotation.cpu().numpy()

    # --- making the frames

    def render(self, plan: Plan, paste: Literal["feathered", "rectangle", "none"]) -> Iterator[Mapping[str, Frames]]:
        """The frames in batches; memory does not grow with their number."""
        start = 0
        for chunk in self.renderer.render(plan):
            faces = chunk[GENERATED]
            frames = np.arange(start, start + len(faces))
            start += len(faces)
            yield chunk if paste == "none" else {GENERATED: self._pasted(plan.source, faces, frames, paste)}

    def _pasted(
        self,
        source: Footage,
        faces: UInt8[np.ndarray, "t side side 3"],
        frames: Int64[np.ndarray, " t"],
        paste: Literal["feathered", "rectangle"],
    ) -> Frames:
        """Whole frames with the rendered faces in them; the rest is as it was."""
        rows = frames if len(source) > 1 else np.zeros_like(frames)
        whole = source.read(rows)
        if paste == "rectangle":
            return paste_rectangles(whole, faces, cropped_rectangles(source.matrices[rows], faces.shape[1]))
        weights = np.broadcast_to(self.mask, (len(faces), *self.mask.shape[1:]))
        return source.pasted(whole, faces, weights, rows)


def _is_picture(source: Given) -> bool:
    if isinstance(source, np.ndarray):
        return True
    if isinstance(source, Clip) or not Path(source).is_file():
        return False
    try:
        read_image(source)
    except MediaError:
        return False
    return True


def reordered(footage: Footage, order: Int64[np.ndarray, " t"]) -> Footage:
    """The frames of the given numbers, in their order, as footage of its own."""
    values = {field.name: getattr(footage, field.name) for field in fields(footage)}
    rows = {name: value[order] for name, value in values.items() if isinstance(value, np.ndarray)}  # one per frame each
    return replace(footage, read=lambda indices: footage.read(order[np.asarray(indices)]), first=0, **rows)


def _points(footage: Footage) -> Float[np.ndarray, "68 2"]:
    """The first frame's face, in pixels of the crop."""
    return to_ibug68(np.asarray(footage.landmarks[:1]))[0]
