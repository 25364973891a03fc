"""What a general compressor needs for a validation text: a yardstick of text whose best possible loss nobody knows.

bzip2 with the end of the training text before the validation text, in one block: what the block grows by. On the
embedded corpus that is 1.92 bits a byte; LZMA with all of the training text before it needs 1.94, in 80 times the time.
"""

from __future__ import annotations

import bz2

BLOCK = 899_000
"""Bytes that bzip2 sorts at once."""
LONGEST = BLOCK // 3
"""Bytes of the validation text that are compressed; the rest of the block is training text."""


def bits_per_byte(training: bytes, validation: bytes) -> float:
    """Return what each byte of the validation text takes, its first `LONGEST` bytes at most.

    Args:
        training: the end of the training text; at least `BLOCK` bytes where it has them.
        validation: the text, not empty.
    """
    validation = validation[:LONGEST]
    before = training[-(BLOCK - len(validation)) :]
    return 8 * (len(bz2.compress(before + validation)) - len(bz2.compress(before))) / len(validation)
