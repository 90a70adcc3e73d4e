"""Word errors over a corpus, and what counts as the same word."""

import pytest

from src.errors import ConfigError
from src.metrics.transcripts import WordErrors, normalised, read_transcripts


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It\u2019s  NOT true!", "it's not true"),
        ("'quoted' \u2014 yes, 3.5%", "quoted yes 3 5"),
        ("under_score\n", "under score"),
        ("", ""),
    ],
)
def test_normalised(text, expected):
    assert normalised(text) == expected


def test_the_corpus_counts_words_not_clips():
    metric = WordErrors()
    metric.update(["a b c d", "x"], ["a b c d", "y"])
    assert metric.compute().item() == pytest.approx(1 / 5)
    metric.update(["something"], [""])
    assert metric.skipped == 1
    assert metric.compute().item() == pytest.approx(1 / 5)
    assert WordErrors().compute().isnan()


def test_transcripts_are_read_by_name_and_mistakes_are_one_sentence(tmp_path):
    (tmp_path / "said.csv").write_text('name,text\na,"hello, you"\n')
    assert read_transcripts(tmp_path / "said.csv") == {"a": "hello, you"}
    (tmp_path / "other.csv").write_text("clip,words\na,b\n")
    with pytest.raises(ConfigError, match="columns name and text"):
        read_transcripts(tmp_path / "other.csv")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_transcripts(tmp_path / "none.csv")
