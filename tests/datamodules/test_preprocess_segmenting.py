"""Recordings are cut into clips without losing a frame that shows the face."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from src.datamodules.preprocessing.segmenting import Rejection, Segment, Segmenter


def cut(found: str, cuts: tuple[int, ...] = (), *, min_frames=3, max_frames=8, max_gap=2) -> list[Segment]:
    """Segments of a recording drawn as a string: `#` shows the face, `.` does not."""
    segmenter = Segmenter(min_frames, max_frames, max_gap)
    segments = []
    for i, mark in enumerate(found):
        segments += segmenter.update(mark == "#", i in cuts)
    return segments + segmenter.finish()


def test_an_unbroken_recording_is_one_clip():
    assert cut("######") == [Segment(0, 6)]


def test_a_cut_begins_a_new_clip():
    assert cut("########", cuts=(4,)) == [Segment(0, 4), Segment(4, 8)]


def test_short_gaps_are_bridged_and_long_ones_end_the_clip():
    assert cut("##..##") == [Segment(0, 6)]
    assert cut("###...###") == [Segment(0, 3), Segment(3, 6, Rejection.NO_FACE), Segment(6, 9)]


def test_clips_begin_and_end_with_a_face():
    assert cut(".####..") == [Segment(1, 5)]
    assert cut("..###.", cuts=(3,)) == [Segment(2, 3, Rejection.SHORT), Segment(3, 5, Rejection.SHORT)]


def test_what_is_too_short_is_named():
    assert cut("##") == [Segment(0, 2, Rejection.SHORT)]
    assert cut("....") == [Segment(0, 4, Rejection.NO_FACE)]
    assert cut("") == []


def test_a_long_recording_gives_full_clips_and_two_halves():
    assert cut("#" * 8) == [Segment(0, 8)]
    assert cut("#" * 10) == [Segment(0, 5), Segment(5, 10)]
    assert cut("#" * 27) == [Segment(0, 8), Segment(8, 16), Segment(16, 24), Segment(24, 27)]
    assert cut("#" * 26) == [Segment(0, 8), Segment(8, 16), Segment(16, 21), Segment(21, 26)]


def test_a_split_does_not_fall_into_a_gap():
    assert cut("#######..####") == [Segment(0, 7), Segment(9, 13)]


def test_clips_come_as_soon_as_their_end_is_known():
    segmenter = Segmenter(3, 8, 2)
    for i in range(10):
        assert segmenter.update(True) == []
        assert segmenter.needed_from == 0, i
    assert segmenter.update(True) == [Segment(0, 8)]
    assert segmenter.needed_from == 8


@given(
    st.text(alphabet="#.", max_size=120),
    st.sets(st.integers(0, 119)),
    st.integers(1, 6),
    st.integers(0, 20),
    st.integers(0, 5),
)
def test_segments_keep_their_promises(found, cuts, min_frames, more, max_gap):
    max_frames = 2 * min_frames + more
    segmenter = Segmenter(min_frames, max_frames, max_gap)
    segments = []
    for i, mark in enumerate(found):
        done = segmenter.update(mark == "#", i in cuts)
        assert all(segment.stop <= i + 1 for segment in done)
        assert i + 1 - segmenter.needed_from < max_frames + min_frames + max_gap  # bounded memory
        segments += done
    segments += segmenter.finish()

    for before, after in itertools.pairwise(segments):
        assert before.stop <= after.start
    clips = [segment for segment in segments if segment.rejected is None]
    for clip in clips:
        assert min_frames <= len(clip) <= max_frames
        assert found[clip.start] == found[clip.stop - 1] == "#"
        assert "." * (max_gap + 1) not in found[clip.start : clip.stop]
        assert not any(clip.start < i < clip.stop for i in cuts)
    told = {i for segment in segments for i in range(segment.start, segment.stop)}
    assert {i for i, mark in enumerate(found) if mark == "#"} <= told
