from collections import defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_models.errors import ConfigError
from trainables.corpora import Document, WebSource, read_documents
from trainables.splits import HELD_OUT_SHARE, SPLITS, split_documents


def corpus(sizes_of_groups: list[list[int]]) -> list[Document]:
    return [
        Document(f"document {g}.{i}", f"group {g}", "x" * size)
        for g, sizes in enumerate(sizes_of_groups)
        for i, size in enumerate(sizes)
    ]


def characters(documents: list[Document]) -> int:
    return sum(len(d.text) for d in documents)


@given(st.lists(st.lists(st.integers(1, 500), min_size=1, max_size=4), min_size=1, max_size=60))
def test_every_document_is_in_one_split_and_groups_stay_whole(sizes):
    documents = corpus(sizes)
    try:
        splits = split_documents(documents, "c")
    except ConfigError:
        return
    assert tuple(splits) == SPLITS
    assert sorted(d.name for members in splits.values() for d in members) == sorted(d.name for d in documents)
    splits_of_group = defaultdict(set)
    for split, members in splits.items():
        assert members
        assert members == [d for d in documents if d in members]
        for d in members:
            splits_of_group[d.group].add(split)
    assert all(len(found) == 1 for found in splits_of_group.values())
    assert 2 * characters(splits["train"]) >= characters(documents)


@settings(max_examples=20)
@given(st.lists(st.integers(50, 150), min_size=200, max_size=400), st.randoms())
def test_shares_are_met_and_order_does_not_matter(sizes, random):
    documents = corpus([[size] for size in sizes])
    splits = split_documents(documents, "c")
    for split in ("validation", "test"):
        assert characters(splits[split]) / characters(documents) == pytest.approx(HELD_OUT_SHARE, abs=0.01)
    shuffled = random.sample(documents, len(documents))
    again = split_documents(shuffled, "c")
    assert {s: {d.name for d in m} for s, m in again.items()} == {s: {d.name for d in m} for s, m in splits.items()}


def test_large_groups_train():
    splits = split_documents(corpus([[100_000], [80_000], *([[100]] * 300)]), "c")
    assert {"group 0", "group 1"} <= {d.group for d in splits["train"]}
    assert all(len({d.group for d in splits[split]}) > 50 for split in ("validation", "test"))


@pytest.mark.parametrize("sizes", [[1], [1, 1], [1, 1, 1], [50, 50, 1], [1000, 1]])
def test_too_few_documents(sizes):
    with pytest.raises(ConfigError, match=r"'c' has too few documents to split .*at least 4 groups"):
        split_documents(corpus([[size] for size in sizes]), "c")


def test_four_documents_are_enough():
    splits = split_documents(corpus([[10], [10], [10], [10]]), "c")
    assert {split: len(members) for split, members in splits.items()} == {
        "train": 2,
        "validation": 1,
        "test": 1,
    }


def test_books_of_web():
    documents, _ = read_documents(WebSource())
    splits = split_documents(documents, "web")
    books = {split: {d.group for d in members} for split, members in splits.items()}
    assert {split: len(names) for split, names in books.items()} == {"train": 36, "validation": 15, "test": 15}
    assert books["validation"] == {
        "1 Timothy", "2 Thessalonians", "3 John", "Colossians", "Galatians", "Habakkuk", "Haggai", "Joel", "Jonah",
        "Jude", "Lamentations", "Malachi", "Micah", "Philemon", "Ruth",
    }  # fmt: skip
    for split in ("validation", "test"):
        assert 0.03 < characters(splits[split]) / characters(documents) < 0.04
