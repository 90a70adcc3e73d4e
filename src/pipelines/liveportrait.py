"""LivePortrait: a portrait or a video of a person, and a driving picture or video -> the person moves as the driving face does."""

import logging
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, Int64, UInt8
from torch import Tensor

from src.adapters.liveportrait_motion import MotionTemplate, check_new, is_motion_template
from src.adapters.liveportrait_motion import load as load_motion_template
from src.adapters.liveportrait_motion import save as save_motion_template
from src.audio.features import FPS
from src.datamodules.store import Clip
from src.diffusion.pixels import Rounding, to_uint8
from src.errors import ConfigError, FaceError, require_choice, require_least
from src.face.alignment import Alignment
from src.face.liveportrait_crop import (
    LivePortraitAlignment,
    WholeFrame,
    feathered_mask,
    limited_size,
    ratios,
    rectangle_mask,
)
from src.media import resize
from src.nn.liveportrait.corrections import Corrections, Ratios, corrected
from src.nn.liveportrait.expressions import edited
from src.nn.liveportrait.keypoints import Motion, Region, drive
from src.nn.liveportrait.portrait import LivePortrait
from src.pipelines.footage import Footage, Frames, read_footage
from src.pipelines.sources import stored_clip
from src.pipelines.video import GENERATED, Video

log = logging.getLogger(__name__)

Paste = Literal["feathered", "rectangle", "none"]
T = TypeVar("T")
Given = str | Path | Clip | UInt8[np.ndarray, "h w 3"]

DRIVING = "driving"
REMEMBERED = 8  # things found in files: frames' crops, motion, features of pictures


@dataclass(frozen=True)
class Plan:
    """What is rendered.

    Attributes:
        source: the person who is shown.
        driving: the face that moves them; None: it is known from a motion template.
        kp_source: x_s, one or one per frame.
        kp_driving: x_d of every frame.
        sound: file that the sound is taken from.
        volume: f_s of a picture; None: found when the frames are made.
        is_picture: a picture is moved by a picture.
    """

    source: Footage
    driving: Footage | None
    kp_source: Float[Tensor, "#t 21 3"]
    kp_driving: Float[Tensor, "t 21 3"]
    sound: Path | Float32[np.ndarray, " s"] | None = None
    volume: Float[Tensor, "1 c d h w"] | None = None
    is_picture: bool = False

    def __len__(self) -> int:
        return len(self.kp_driving)


class LivePortraitPipeline:
    """Moves the key points of a face as those of a driving face move, at 25 frames per second.

    The original is `paste="rectangle"`, `crop_smoothing=0`, `max_side=1280`, `rounding="down"`; see `conf/pipeline/liveportrait.yaml`
    for the names that its options had.

    Args:
        model: the networks.
        relative: add the driving face's changes since its first frame to the source; False: replace the source's pose and expression.
        region: what moves: `all`, `exp` (expression), `pose`, `lip` or `eyes`.
        stitching: keep the borders of the crop where they are, so that it can be pasted back.
        multiplier: of the movement.
        smoothing: of the motion of a source video: observation variance of a Kalman filter, larger is smoother.
        normalize_lip: close the source's lips before they are moved; relative motion only.
        lip_threshold: ratio from which on lips are closed.
        steady_eyes: open the eyes of all frames of a source video as wide as those of its first one.
        eye_threshold: ratio below which that frame's eyes count as closed, and are opened.
        eye_retargeting: open both eyes as wide as the driving left one.
        lip_retargeting: open the lips as wide as the driving ones.
        keep_driving: retargeting adds to the driving motion; False, as the original: it replaces relative motion.
        edits: amounts of expressions that are added to every frame, see `src.nn.liveportrait.expressions`.
        crop: show the networks a square around the source's face; False: the whole frame, squeezed to a square.
        crop_scale: side of that square in face sizes.
        crop_vx: its shift to the right, in sides.
        crop_vy: its shift down, in sides.
        crop_rotate: turn it so that the face stands upright.
        crop_smoothing: of the squares of a video along time, standard deviation in frames.
        crop_driving: show the networks a square around the driving face, one for the whole video; None: where the frames are not square.
        driving_scale: side of that square in face sizes.
        driving_vx: its shift to the right, in sides.
        driving_vy: its shift down, in sides.
        paste: put the face back into the whole frame with `feathered` borders, or with the original's `rectangle`; `none`: the crop alone.
        feather: width of those borders, in sides of the crop.
        max_side: shrink source frames whose longer side is longer; None: keep their size.
        division: cut frames to sides that are multiples of this.
        sound: whose sound the video has where both have some: `driving` or `source`.
        frame_limit: make at most so many frames.
        batch_size: frames at a time; changes memory and speed, not the result.
        side_by_side: show the driving frames left of the result, where they are known.
        save_motion: write the driving motion to this file, which can be given as `driving` from then on.
        face_model: path of MediaPipe's FaceLandmarker; None: in the models folder.
        rounding: of grey levels; `down` as the original truncates them.

    Raises:
        ConfigError: a setting that cannot be used.
    """

    def __init__(
        self,
        model: LivePortrait,
        *,
        relative: bool = True,
        region: Region = "all",
        stitching: bool = True,
        multiplier: float | int = 1.0,
        smoothing: float | int = 3e-7,
        normalize_lip: bool = False,
        lip_threshold: float | int = 0.03,
        steady_eyes: bool = False,
        eye_threshold: float | int = 0.18,
        eye_retargeting: bool = False,
        lip_retargeting: bool = False,
        keep_driving: bool = False,
        edits: Mapping[str, float | int] | None = None,
        crop: bool = True,
        crop_scale: float | int = 2.3,
        crop_vx: float | int = 0.0,
        crop_vy: float | int = -0.125,
        crop_rotate: bool = True,
        crop_smoothing: float | int = 6.0,
        crop_driving: bool | None = None,
        driving_scale: float | int = 2.2,
        driving_vx: float | int = 0.0,
        driving_vy: float | int = -0.1,
        paste: Paste = "feathered",
        feather: float | int = 0.12,
        max_side: int | None = None,
        division: int = 2,
        sound: Literal["driving", "source"] = "driving",
        frame_limit: int | None = None,
        batch_size: int = 8,
        side_by_side: bool = False,
        save_motion: str | Path | None = None,
        face_model: str | Path | None = None,
        rounding: Rounding = "nearest",
    ) -> None:
        for name, value, choices in (
            ("region", region, Region),
            ("paste", paste, Paste),
            ("sound", sound, Literal["driving", "source"]),
            ("rounding", rounding, Rounding),
        ):
            require_choice(f"pipeline.{name}", value, get_args(choices))
        for name, value, least in (
            ("batch_size", batch_size, 1), ("division", division, 1), ("feather", feather, 0), ("smoothing", smoothing, 0),
            ("crop_smoothing", crop_smoothing, 0), ("frame_limit", frame_limit, 1), ("max_side", max_side, 16),
        ):  # fmt: skip
            if value is not None:
                require_least(f"pipeline.{name}", value, least)
        edited(torch.zeros(1, 21, 3), edits or {})  # a wrong name is told now, not after a minute of detection
        self.model = model
        model.generator.fold_spectral_norm()
        self.relative = relative
        self.region: Region = region
        self.smoothing = float(smoothing)
        self.corrections = Corrections(
            stitching, normalize_lip, float(lip_threshold), steady_eyes, float(eye_threshold),
            eye_retargeting, lip_retargeting, keep_driving, multiplier,
        )  # fmt: skip
        self.edits = dict(edits or {})
        side = model.output_size
        self.source_alignment: Alignment = (
            LivePortraitAlignment(
                side, scale=crop_scale, vx=crop_vx, vy=crop_vy, rotate=crop_rotate, smoothing=crop_smoothing
            )
            if crop
            else WholeFrame(side)
        )
        square = LivePortraitAlignment(
            model.input_size, scale=driving_scale, vx=driving_vx, vy=driving_vy, rotate=False, fixed=True
        )
        self.driving_alignment = _DrivingAlignment(square, crop_driving)
        self.paste: Paste = paste
        self.mask = (rectangle_mask(side) if paste == "rectangle" else feathered_mask(side, feather))[None, ..., None]
        self.max_side, self.division = max_side, division
        self.sound: Literal["driving", "source"] = sound
        self.frame_limit = frame_limit
        self.batch_size = batch_size
        self.side_by_side = side_by_side
        self.save_motion = None if save_motion is None else Path(save_motion)
        if self.save_motion is not None:
            check_new(self.save_motion, "pipeline.save_motion")
        self._recent = _Recent(REMEMBERED)
        self.face_model = face_model
        self.rounding: Rounding = rounding

    @property
    def device(self) -> torch.device:
        """Where the frames are made."""
        return self.model.device

    def __call__(
        self,
        source: Given | None = None,
        audio: str | Path | Clip | Float32[np.ndarray, " s"] | None = None,
        driving: Given | None = None,
        *,
        seed: int = 1,
    ) -> Video:
        """The video, made when it is read.

        Args:
            source: who is shown: a picture, a video, or a clip of a clip store, `STORE@CLIP_ID`.
            audio: sound of the result; None: that of the driving video or of the source.
            driving: whose movement is taken over: the same kinds, or a motion template, see `src.adapters.liveportrait_motion`.
            seed: nothing is random.

        Raises:
            ConfigError: source or driving is missing.
            FaceError: there is no face, or the landmark model is missing.
            MediaError, StoreError: a file cannot be read.
        """
        del seed
        plan = self.plan(source, driving, audio)
        side = self.model.output_size
        size = (side, side) if self.paste == "none" else plan.source.size
        beside = (DRIVING,) if self.side_by_side and plan.driving is not None else ()
        return Video(
            lambda: self.render(plan),
            float(FPS),
            len(plan),
            size,
            plan.sound,
            beside=beside,
            is_picture=plan.is_picture,
        )

    # --- reading what the user gives

    @torch.inference_mode()
    def plan(
        self,
        source: Given | None,
        driving: Given | None,
        audio: str | Path | Clip | Float32[np.ndarray, " s"] | None = None,
    ) -> Plan:
        """Key points of every frame, in float32: they cost little. Arguments and errors as of a call."""
        if source is None or driving is None:
            raise ConfigError("liveportrait needs a face and one that moves it: give source=FACE and driving=VIDEO.")
        with torch.autocast(self.device.type, enabled=False):
            shown = self.remembered(source, "source", lambda: self._source(source))
            if is_motion_template(driving):
                moving, template = None, load_motion_template(str(driving)).at(FPS)
                n_driving = len(template)
                n = self.n_frames(len(shown), n_driving)
            else:
                moving = self.remembered(driving, DRIVING, lambda: self._driving(driving))
                n_driving = len(moving)
                n = self.n_frames(len(shown), n_driving)
                template = self._template(driving, moving, n)
            if self.save_motion is not None:
                check_new(self.save_motion, "pipeline.save_motion")
                save_motion_template(self.save_motion, template)
                log.info("wrote %s", self.save_motion)
            source_motion = self.remembered(
                source, f"source motion {n}", lambda: self.motion(shown, min(len(shown), n))
            )
            template = template.first(n).to(self.device)
            x_s, x_d = self._key_points(shown, source_motion, template, driving_is_image=n_driving == 1)
            volume = None
            if len(shown) == 1:
                volume = self.remembered(source, "volume", lambda: self.volume(shown))
        sound = _sound(audio, shown, moving, self.sound)
        return Plan(shown, moving, x_s, x_d, sound, volume, is_picture=len(shown) == n_driving == 1)

    def remembered(self, given: Given, what: str, make: Callable[[], T]) -> T:
        """What is found in a file, once until the file changes; of what is no file, every time."""
        key = _identity(given)
        return make() if key is None else self._recent.get((what, key), make)

    def _source(self, source: Given) -> Footage:
        shown = read_footage(source, self.source_alignment, face_model=self.face_model)
        return limited(shown, self.max_side, self.division)

    def _driving(self, driving: Given) -> Footage:
        try:
            return read_footage(driving, self.driving_alignment, face_model=self.face_model)
        except FaceError as error:
            raise FaceError(str(error).replace("source=", "driving=", 1)) from error

    def _template(self, driving: Given, moving: Footage, n: int) -> MotionTemplate:
        """How the driving face moves in the first n frames."""
        motion = self.remembered(driving, f"driving motion {n}", lambda: self.motion(moving, min(len(moving), n)))
        return MotionTemplate(motion, self._ratios(moving, n), float(FPS))

    def _key_points(
        self, shown: Footage, source: Motion, driving: MotionTemplate, *, driving_is_image: bool
    ) -> tuple[Float[Tensor, "#t 21 3"], Float[Tensor, "t 21 3"]]:
        """x_s and x_d of every frame."""
        rules = self.corrections
        if rules.eye_retargeting or rules.lip_retargeting:
            driving.require_ratios()
        x_s = source.points()
        moving = driving.motion  # takes the place of the source's expression, edits and all, where it is not relative
        x_d = drive(
            replace(source, exp=edited(source.exp, self.edits)),
            moving if self.relative else replace(moving, exp=edited(moving.exp, self.edits)),
            relative=self.relative,
            region=self.region,
            source_is_video=len(shown) > 1,
            driving_is_image=driving_is_image,
            smoothing=self.smoothing,
        )
        ratios_of_source = self._ratios(shown, len(source))
        return x_s, corrected(self.model, x_s, x_d, ratios_of_source, driving.ratios, rules, relative=self.relative)

    def n_frames(self, n_source: int, n_driving: int) -> int:
        """Frames of the result: the shorter of two videos, else the only one."""
        n = min(n_source, n_driving) if min(n_source, n_driving) > 1 else max(n_source, n_driving)
        if min(n_source, n_driving) > 1 and n_source != n_driving:
            log.info("source and driving video have %d and %d frames; %d are made", n_source, n_driving, n)
        return n if self.frame_limit is None else min(n, self.frame_limit)

    def motion(self, footage: Footage, n: int) -> Motion:
        """Key points and motion of the first frames."""
        parts = []
        for start in range(0, n, self.batch_size):
            rows = np.arange(start, min(start + self.batch_size, n))
            parts.append(self.model.motion(self._input(footage.crops(rows))))
        return Motion.cat(parts)

    def volume(self, footage: Footage) -> Float[Tensor, "1 c d h w"]:
        """Appearance of the first frame."""
        return self.model.volume(self._input(footage.crops([0])))

    def _input(self, crops: Frames) -> Float[Tensor, "t 3 side side"]:
        """Crops as the networks see them: larger ones shrunk to the mean of each pixel's area."""
        pictures = to_pictures(crops).to(self.device)
        size = (self.model.input_size,) * 2
        return pictures if pictures.shape[2:] == size else F.interpolate(pictures, size=size, mode="area")

    def _ratios(self, footage: Footage, n: int) -> Ratios:
        """How far eyes and lips are open in the first frames."""
        eyes, lip = ratios(np.asarray(footage.landmarks[:n]))
        return Ratios(*(torch.from_numpy(part).float().to(self.device) for part in (eyes, lip)))

    # --- making the frames

    @torch.inference_mode()
    def render(self, plan: Plan) -> Iterator[Mapping[str, Frames]]:
        """The frames in batches; memory does not grow with their number."""
        is_video = len(plan.source) > 1
        volume, whole = plan.volume, None
        for start in range(0, len(plan), self.batch_size):
            frames = np.arange(start, min(start + self.batch_size, len(plan)))
            shown = frames if is_video else np.zeros_like(frames)
            if whole is None or is_video:
                whole = plan.source.read(np.unique(shown))
            if volume is None or is_video:
                volume = self.model.volume(self._input(plan.source.crops(np.unique(shown), whole)))
            kp_source = plan.kp_source if len(plan.kp_source) == 1 else plan.kp_source[frames]
            made = to_frames(self._rendered(volume, kp_source, plan.kp_driving[frames]), self.rounding)
            chunk = {GENERATED: made}
            if self.paste != "none":
                pictures = np.broadcast_to(whole, (len(frames), *whole.shape[1:]))
                weights = np.broadcast_to(self.mask, (len(frames), *self.mask.shape[1:]))
                smooth = self.paste == "feathered"
                chunk = {GENERATED: plan.source.pasted(pictures, made, weights, shown, antialias=smooth)}
            if self.side_by_side and plan.driving is not None:
                moving = frames if len(plan.driving) > 1 else np.zeros_like(frames)
                height = chunk[GENERATED].shape[1]
                chunk[DRIVING] = resize(plan.driving.crops(moving), (height, height))
            yield chunk

    def _rendered(
        self,
        volume: Float[Tensor, "#t c d h w"],
        kp_source: Float[Tensor, "#t 21 3"],
        kp_driving: Float[Tensor, "t 21 3"],
    ) -> Float[Tensor, "t 3 h2 w2"]:
        """Frames in [0, 1]; once more in float32 where half precision was not enough."""
        frames = self.model.render(volume, kp_source, kp_driving)
        if not torch.isfinite(frames).all():
            log.warning("the frames are not finite in this precision and are made in float32; use precision=float32")
            with torch.autocast(self.device.type, enabled=False):
                frames = self.model.render(volume.float(), kp_source, kp_driving)
        return frames.clamp(0, 1)


class _DrivingAlignment:
    """A square around the face where the frames are not square, or where it is asked for; else the whole frame."""

    def __init__(self, square: LivePortraitAlignment, crop: bool | None) -> None:
        self.square, self.whole = square, WholeFrame(square.size[0])
        self.crop = crop
        self.size = square.size

    def fit(self, landmarks: Float[np.ndarray, "t n d"], frame_size: tuple[int, int]) -> Float[np.ndarray, "t 3 3"]:
        """Frame pixels -> crop pixels; see `Alignment.fit`."""
        crop = frame_size[0] != frame_size[1] if self.crop is None else self.crop
        return (self.square if crop else self.whole).fit(landmarks, frame_size)


def limited(footage: Footage, max_side: int | None, division: int) -> Footage:
    """Smaller frames of the same person: see `limited_size`."""
    size, cut = limited_size(*footage.size, max_side or 0, division)
    if footage.size == size == cut:
        return footage
    scale = np.array([size[1] / footage.size[1], size[0] / footage.size[0]])
    to_small = np.diag([*scale, 1.0])
    to_small[:2, 2] = 0.5 * scale - 0.5  # pixel centres lie at integers

    def read(indices: list[int] | Int64[np.ndarray, " t"]) -> Frames:
        return resize(footage.read(indices), size)[:, : cut[0], : cut[1]]

    return replace(footage, read=read, matrices=footage.matrices @ np.linalg.inv(to_small), size=cut)


class _Recent:
    """Values by key, of which the ones that were asked for last are kept.

    Args:
        size: how many are kept.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._values: OrderedDict[Hashable, Any] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """The value, made where it is not there."""
        value = self._values.pop(key) if key in self._values else make()
        self._values[key] = value
        while len(self._values) > self.size:
            self._values.popitem(last=False)
        return value


def _identity(given: Given) -> Hashable | None:
    """What a file is known by until it changes; None for what is no file."""
    if not isinstance(given, str | Path) or not Path(given).is_file():
        return None
    state = Path(given).stat()
    return Path(given).resolve(), state.st_mtime_ns, state.st_size


def _sound(
    audio: str | Path | Clip | Float32[np.ndarray, " s"] | None, source: Footage, driving: Footage | None, priority: str
) -> Path | Float32[np.ndarray, " s"] | None:
    """The given sound, or that of one of the videos."""
    if isinstance(audio, np.ndarray):
        return audio
    if audio is not None:
        clip = stored_clip(audio)
        return Path(str(audio)) if clip is None else clip.audio_path
    heard = [footage.sound for footage in (driving, source) if footage is not None and footage.sound]
    return heard[0 if priority == DRIVING else -1] if heard else None


def to_pictures(frames: UInt8[np.ndarray, "t h w 3"]) -> Float[Tensor, "t 3 h w"]:
    """Frames as the networks take them, in [0, 1]."""
    return torch.from_numpy(np.array(frames)).permute(0, 3, 1, 2).float() / 255


def to_frames(pictures: Float[Tensor, "t 3 h w"], rounding: Rounding = "nearest") -> UInt8[np.ndarray, "t h w 3"]:
    """What the networks give, clipped to [0, 1], as frames."""
    return to_uint8(pictures.float().clamp(0, 1), rounding).permute(0, 2, 3, 1).cpu().numpy()
