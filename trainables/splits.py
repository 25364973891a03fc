"""The split rule: which documents are trained on, validated on, and left for the final test."""

from __future__ import annotations

from moe_models.errors import ConfigError
from moe_models.streams import derive_seed
from trainables.corpora import Document

SPLITS = ("train", "validation", "test")
HELD_OUT_SHARE = 0.035
"""Target share of the characters, of validation and of test each."""
LEAST_HELD_OUT_GROUPS = 8
"""Groups that a held-out split should have at least, where the corpus allows it."""
SPLIT_SEED = 0
"""Fixed: the split belongs to the corpus, not to a run."""


def split_documents(documents: list[Document], corpus: str) -> dict[str, list[Document]]:
    """Split documents into train, validation and test: whole groups, always the same ones.

    Only small groups can be held out, so that these splits consist of many (groups are the clusters of later
    statistics): up to `HELD_OUT_SHARE / LEAST_HELD_OUT_GROUPS` of the characters, or as large as it takes for the
    groups up to that size to fill both splits. In the order of a hash of their names each goes to the smaller of the
    two held-out splits until both have their share; the rest trains.

    Args:
        documents: all documents of the corpus; each split keeps their order.
        corpus: the corpus's name, for the error.

    Raises:
        ConfigError: a split would be empty, or less than half of the text would be left to train on.
    """
    sizes: dict[str, int] = {}
    for document in documents:
        sizes[document.group] = sizes.get(document.group, 0) + len(document.text)
    total = sum(sizes.values())
    target = HELD_OUT_SHARE * total
    limit = _largest_held_out_size(list(sizes.values()), target)

    split_of = dict.fromkeys(sizes, "train")
    held_out = {"validation": 0, "test": 0}
    candidates = (group for group, size in sizes.items() if size <= limit)
    for group in sorted(candidates, key=lambda name: derive_seed(SPLIT_SEED, "split", name)):
        smaller = min(held_out, key=lambda split: held_out[split])
        if held_out[smaller] >= target:
            break
        split_of[group] = smaller
        held_out[smaller] += sizes[group]

    if min(held_out.values()) == 0 or sum(held_out.values()) > total / 2:
        raise ConfigError(
            f"corpus '{corpus}' has too few documents to split into train, validation and test: {len(documents):,}, "
            f"groups: {len(sizes):,}; at least 4 groups of similar length are needed "
            "(a document without a group is one; in a .txt file, each paragraph between blank lines)"
        )
    return {split: [d for d in documents if split_of[d.group] == split] for split in SPLITS}


def _largest_held_out_size(sizes: list[int], target: float) -> float:
    limit, available = target / LEAST_HELD_OUT_GROUPS, 0
    for size in sorted(sizes):
        if available >= 2 * target:
            break
        available += size
        limit = max(limit, size)
    return limit
