"""Every number of an evaluation by name, with its unit, its direction and its meaning, in groups that are chosen together."""

from dataclasses import dataclass

from src.errors import ConfigError


@dataclass(frozen=True)
class Quantity:
    """A number of the report.

    Attributes:
        unit: empty for pure numbers.
        better: "higher", "lower", or "real": the closer to the real videos' value.
        meaning: what it is, in a few words.
        of_set: a number of all clips together, not of each.
    """

    unit: str
    better: str
    meaning: str
    of_set: bool = False


GROUPS: dict[str, dict[str, Quantity]] = {
    "image": {
        "psnr": Quantity("dB", "higher", "peak signal-to-noise ratio of the frames"),
        "ssim": Quantity("", "higher", "structural similarity of the frames"),
    },
    "lpips": {"lpips": Quantity("", "lower", "learned perceptual distance of the frames (AlexNet unless stated)")},
    "fid": {
        "fid": Quantity("", "lower", "Frechet distance of all frames' Inception features", of_set=True),
        "kid": Quantity("", "lower", "kernel distance of the same features, unbiased", of_set=True),
    },
    "fvd": {"fvd": Quantity("", "lower", "Frechet distance of all clips' I3D logits", of_set=True)},
    "cpbd": {"cpbd": Quantity("", "real", "sharpness: share of edges without visible blur")},
    "landmarks": {
        "face_found": Quantity("share", "higher", "share of the frames in which the detector finds a face"),
        "lmd_face": Quantity("px@256", "lower", "landmark distance, centred, all 68 points"),
        "lmd_mouth": Quantity("px@256", "lower", "landmark distance, centred, mouth"),
        "lmd_mouth_normalised": Quantity("eye dist.", "lower", "landmark distance, centred, mouth"),
        "mouth_correlation": Quantity("", "higher", "the mouth opens as the real one does"),
    },
    "mouth_sound": {
        "audio_correlation": Quantity("", "higher", "the mouth opens with the voice, no shift"),
        "audio_correlation_best": Quantity("", "higher", "the same at the best shift"),
        "audio_lag": Quantity("frames", "real", "that shift: how far the sound lags the mouth"),
    },
    "mouth_pixels": {
        "pixel_motion_correlation": Quantity("", "higher", "the mouth's pixels move as the real ones do"),
        "pixel_mouth_correlation": Quantity("", "higher", "mouth opening, read from pixels, against the real one"),
        "pixel_audio_correlation": Quantity("", "higher", "mouth opening, read from pixels, with the voice"),
        "pixel_audio_correlation_best": Quantity("", "higher", "the same at the best shift"),
        "pixel_audio_lag": Quantity("frames", "real", "that shift: how far the sound lags the mouth"),
    },
    "sync": {
        "lse_c": Quantity("", "higher", "SyncNet's AV confidence"),
        "lse_d": Quantity("", "lower", "SyncNet's distance at the best shift"),
        "av_offset": Quantity("frames", "real", "SyncNet's shift; positive: the sound leads"),
        "av_offset_magnitude": Quantity("frames", "lower", "its magnitude, clip by clip"),
    },
    "identity": {
        "csim": Quantity("", "higher", "cosine of ArcFace embeddings, frame by frame with the real video"),
        "csim_source": Quantity("", "higher", "the same with the real video's first frame"),
    },
    "blinks": {
        "blinks_per_second": Quantity("1/s", "real", "blinks, pooled over the clips"),
        "blink_duration": Quantity("s", "real", "their mean length, pooled over the clips"),
    },
    "pose": {
        "pose_diversity": Quantity("degrees", "real", "standard deviation of yaw, pitch and roll over time"),
        "beat_alignment": Quantity("", "higher", "turns of the head lie on beats of the sound"),
    },
    "frame_mse": {
        "f_mse": Quantity("", "real", "F-MSE as published: squared differences in bytes, modulo 256"),
        "frame_mse": Quantity("levels^2", "real", "plain mean squared difference of successive frames"),
    },
    "flow": {
        "ofm": Quantity("", "real", "OFM as published: colours of the stretched optical flow"),
        "flow_magnitude": Quantity("px@128", "real", "plain mean magnitude of the optical flow"),
    },
    "wer": {"wer_audio": Quantity("", "lower", "word error rate of a speech recogniser on the sound, not on the lips")},
}
QUANTITIES = {name: quantity for group in GROUPS.values() for name, quantity in group.items()}
PIXEL_MOTION, PIXEL_MOUTH, *_ = GROUPS["mouth_pixels"]
PIXEL_AUDIO = tuple(name for name in GROUPS["mouth_pixels"] if name.startswith("pixel_audio"))


def names_of(group: str) -> tuple[str, ...]:
    """Names of a group's quantities."""
    return tuple(GROUPS[group])


def chosen_groups(metrics: tuple[str, ...] | None) -> tuple[str, ...]:
    """The groups that hold the named quantities or groups; all for None.

    Raises:
        ConfigError: a name is neither.
    """
    if metrics is None:
        return tuple(GROUPS)
    unknown = [name for name in metrics if name not in GROUPS and name not in QUANTITIES]
    if unknown:
        raise ConfigError(
            f"metrics: there is no {unknown[0]!r}; choose from the groups {', '.join(GROUPS)} or the metrics {', '.join(QUANTITIES)}."
        )
    return tuple(group for group, names in GROUPS.items() if group in metrics or names.keys() & set(metrics))


def chosen_names(metrics: tuple[str, ...] | None) -> tuple[str, ...]:
    """The quantities that are named, or belong to a group that is; all for None. Raises as `chosen_groups`."""
    groups = chosen_groups(metrics)
    wanted = QUANTITIES if metrics is None else metrics
    return tuple(name for group in groups for name in GROUPS[group] if name in wanted or group in wanted)
