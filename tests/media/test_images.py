import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from src.errors import MediaError
from src.media import read_image, resize, write_image

PICTURE = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


def test_a_png_round_trip_is_exact(tmp_path):
    write_image(tmp_path / "a.png", PICTURE)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), PICTURE)


def test_grey_becomes_three_equal_channels(tmp_path):
    Image.fromarray(PICTURE[..., 0]).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), PICTURE[..., :1].repeat(3, axis=2))


def test_transparent_pixels_are_laid_on_white(tmp_path):
    alpha = np.zeros((20, 30, 1), dtype=np.uint8)
    alpha[:, 10:] = 255
    alpha[:, 20:] = 128
    Image.fromarray(np.concatenate([PICTURE, alpha], axis=2), "RGBA").save(tmp_path / "a.png")
    read = read_image(tmp_path / "a.png")
    assert (read[:, :10] == 255).all()
    np.testing.assert_array_equal(read[:, 10:20], PICTURE[:, 10:20])
    half = PICTURE[:, 20:] * (128 / 255) + 255 * (127 / 255)
    assert np.abs(read[:, 20:] - half).max() <= 1


@pytest.mark.parametrize("mode", ["P", "L", "CMYK", "1", "LA"])
def test_other_modes_become_rgb(tmp_path, mode):
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    image = Image.fromarray(PICTURE).convert(mode)
    image.save(path)
    np.testing.assert_array_equal(read_image(path), np.array(image.convert("RGB")))


def test_sixteen_bits_are_scaled_to_eight(tmp_path):
    levels = np.array([[0, 257, 128 * 257, 65535]], dtype=np.uint16)
    Image.fromarray(levels).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png")[0, :, 0].tolist() == [0, 1, 128, 255]


@pytest.mark.parametrize(
    ("orientation", "quarters", "mirrored"), [(1, 0, False), (3, 2, False), (6, 3, False), (8, 1, False), (2, 0, True)]
)
def test_exif_orientation_is_applied(tmp_path, orientation, quarters, mirrored):
    image = Image.fromarray(PICTURE)
    exif = image.getexif()
    exif[0x0112] = orientation
    image.save(tmp_path / "a.png", exif=exif)
    expected = np.rot90(PICTURE[:, ::-1] if mirrored else PICTURE, quarters)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), expected)


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "empty"), (b"no picture", "unknown format"), (None, "no such file")],
    ids=["empty", "text", "missing"],
)
def test_unreadable_pictures(tmp_path, one_sentence, content, reason):
    path = tmp_path / "face.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(MediaError, match=reason) as caught:
        read_image(path)
    one_sentence(caught, path)


def test_truncated_picture(tmp_path, one_sentence):
    path = tmp_path / "face.png"
    write_image(path, PICTURE)
    path.write_bytes(path.read_bytes()[:600])
    with pytest.raises(MediaError, match="no picture that can be read") as caught:
        read_image(path)
    one_sentence(caught, path)


def test_unknown_suffix(tmp_path, one_sentence):
    with pytest.raises(MediaError, match="unknown picture format") as caught:
        write_image(tmp_path / "a.xyz", PICTURE)
    one_sentence(caught, tmp_path / "a.xyz")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("lead", [(), (4,), (2, 3)])
@pytest.mark.parametrize("channels", [1, 3])
def test_resize_keeps_leading_axes_and_type(lead, channels):
    frames = np.random.default_rng(1).integers(0, 256, (*lead, 16, 24, channels), dtype=np.uint8)
    small = resize(frames, (8, 10))
    assert small.shape == (*lead, 8, 10, channels)
    assert small.dtype == np.uint8
    flat = small.reshape(-1, 8, 10, channels)
    for i, frame in enumerate(frames.reshape(-1, 16, 24, channels)):
        np.testing.assert_array_equal(flat[i], resize(frame, (8, 10)))


@given(level=st.integers(0, 255), size=st.tuples(st.integers(1, 40), st.integers(1, 40)))
def test_resize_keeps_a_flat_picture_flat(level, size):
    assert (resize(np.full((13, 17, 3), level, dtype=np.uint8), size) == level).all()


def test_resize_without_change_is_exact():
    np.testing.assert_array_equal(resize(PICTURE, (20, 30)), PICTURE)


def test_antialias_averages_where_plain_sampling_aliases():
    stripes = np.zeros((64, 64, 3), dtype=np.uint8)
    stripes[:, ::2] = 255
    smooth = resize(stripes, (16, 16))
    assert np.abs(smooth[:, 2:-2].astype(int) - 127).max() < 12


@pytest.mark.parametrize("size", [(10, 15), (40, 60), (7, 50)])
def test_resize_agrees_with_pillow(size):
    expected = np.array(Image.fromarray(PICTURE).resize(size[::-1], Image.Resampling.BILINEAR))
    assert np.abs(resize(PICTURE, size).astype(int) - expected).max() <= 1
