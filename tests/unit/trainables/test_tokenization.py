import json
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_models.errors import ConfigError
from trainables.corpora import FileSource
from trainables.tokenization import END_OF_DOCUMENT, tokenize, train_tokenizer, without_special_text

TEXTS = [f"the {word} of the {word}s goes {word}ing" for word in ("river", "river", "walk", "sing", "bring")]


def grouped_source(tmp_path, marked_split: str | None = None) -> FileSource:
    """Write 40 documents of equal length; those of one split say something that no other document says."""
    names = [f"g{i:02}" for i in range(40)]
    split_of = {}
    if marked_split:
        for split, members in tokenize(grouped_source(tmp_path), 300).documents.items():
            split_of |= {d.group: split for d in members}
    path = tmp_path / "grouped.jsonl"
    with path.open("w") as file:
        for name in names:
            word = "qqqq" if split_of.get(name, "") == (marked_split or "none") else "moon"
            file.write(json.dumps({"text": f"{word} and {word} over the river {name} " * 5, "group": name}) + "\n")
    return FileSource(path)


class TestTrainedOnTrainingDocuments:
    def test_validation_and_test_text_changes_nothing(self, tmp_path):
        plain = tokenize(grouped_source(tmp_path), 320).tokenizer.to_str()
        for split in ("validation", "test"):
            marked = tokenize(grouped_source(tmp_path, split), 320)
            assert any("qqqq" in d.text for d in marked.documents[split])
            assert marked.tokenizer.to_str() == plain

    def test_training_text_does(self, tmp_path):
        plain = tokenize(grouped_source(tmp_path), 320).tokenizer.get_vocab()
        marked = tokenize(grouped_source(tmp_path, "train"), 320).tokenizer.get_vocab()
        assert "qqqq" not in plain
        assert "qqqq" in marked


def test_training_is_deterministic_across_processes_and_threads():
    code = (
        f"from trainables.tokenization import train_tokenizer; texts = {TEXTS} * 50\n"
        "print(train_tokenizer(texts, 290).to_str())"
    )
    runs = {
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, **setting}, capture_output=True, check=True
        ).stdout
        for setting in ({"TOKENIZERS_PARALLELISM": "false"}, {"RAYON_NUM_THREADS": "4"})
    }
    assert len(runs) == 1


@pytest.fixture(scope="module")
def tokenizer():
    return without_special_text(train_tokenizer(TEXTS, 280))


@given(text=st.text())
def test_any_text_survives_the_round_trip(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text


def test_the_end_of_document_is_no_text(tokenizer):
    end = tokenizer.token_to_id(END_OF_DOCUMENT)
    assert end not in tokenizer.encode(f"a{END_OF_DOCUMENT}b").ids


def test_documents_end_with_the_end_of_document(tmp_path):
    made = tokenize(grouped_source(tmp_path), 300)
    end = made.tokenizer.token_to_id(END_OF_DOCUMENT)
    for split, documents in made.documents.items():
        for document, ids in zip(documents, made.tokens[split], strict=True):
            assert ids[-1] == end
            assert end not in ids[:-1]
            assert made.tokenizer.decode(ids[:-1].tolist()) == document.text


def test_fewer_merges_than_asked_for_are_noted(tmp_path):
    made = tokenize(grouped_source(tmp_path), 5000)
    used = made.tokenizer.get_vocab_size()
    assert used < 5000
    assert made.notes == [
        f"corpus 'grouped.jsonl': the tokenizer has {used:,} entries of the 5,000 asked for; "
        f"{5000 - used:,} rows of the embedding are no token's: all that they learn is not to be predicted"
    ]


class TestPublishedTokenizer:
    @pytest.fixture
    def source(self, tmp_path):
        class Published(FileSource):
            def published_tokenizer(self):
                return train_tokenizer(TEXTS, 280)

        return Published(grouped_source(tmp_path).path)

    def test_is_used_as_it_is(self, source):
        made = tokenize(source, 280)
        assert made.tokenizer.get_vocab() == train_tokenizer(TEXTS, 280).get_vocab()
        assert made.notes == []

    def test_vocabulary_must_hold_it(self, source):
        with pytest.raises(ConfigError, match=r"published tokenizer of 280 entries.*but got 279.*--corpus web"):
            tokenize(source, 279)
