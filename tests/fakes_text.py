"""A small corpus for tests: sentences of a tiny grammar, enough for every split, seconds to tokenize."""

from __future__ import annotations

import random
from pathlib import Path

WORDS = ("light", "water", "stone", "river", "morning", "people", "voice", "garden", "winter", "silver", "road", "wind")


def write_corpus(path: Path, documents: int = 300) -> Path:
    """Write a .jsonl corpus and return its path; equal at every call."""
    draw = random.Random(0)
    lines = []
    for _ in range(documents):
        sentences = (" ".join(draw.choices(WORDS, k=9)) for _ in range(12))
        lines.append('{"text": "' + ". ".join(sentences) + '."}')
    path.write_text("\n".join(lines) + "\n")
    return path
