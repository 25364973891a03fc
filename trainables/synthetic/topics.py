"""`synthetic`: sentences about a topic, with names that come back and brackets that close.

A document begins with its topic and a first word. Then, until it ends:

- *Words* depend on the topic, named once at the beginning, and on the word before, wherever that stands: half of the
  time the next word is one of the two that may follow that word in every topic, half of the time one that the topic
  likes.
- *Names* are new ones, the more seldom the more there were, or come back, the latest first.
- *Brackets* of four kinds nest, and the one that closes is of the kind of the last that is open.
- A *stop* ends a sentence, and with it perhaps the document. It cannot stand inside brackets.

What comes next (a word, a name, a bracket, a stop) depends on the depth of the brackets and on whether something may
end here; which one it is depends on the whole document so far.

Shapes: V symbols, K topics, W words, R ranks of names, S states of the chain that chooses what comes next.
"""

from __future__ import annotations

import itertools
from functools import cache

import numpy as np

from moe_models.streams import derive_seed
from trainables.synthetic.base import END, entropy_of, register

TOPICS, WORDS, NAMES, BRACKETS = 8, 48, 32, 4
DEEPEST = 3
"""Brackets that can be open at once."""
MOST_NAMES = 8
"""Different names in a document."""
FOLLOWERS = (0.7, 0.3)
"""Probability of each word that may follow a word, where it is that word that decides."""
TOPIC_SHARE = 0.5
"""How often the topic decides on a word, not the word before."""
WORD, NAME, OPEN, EXIT = range(4)
"""What can come next; EXIT is the closing bracket, or the stop outside brackets."""
ANYWHERE = (0.5, 0.2, 0.1, 0.2)
"""Probability of each."""
AFTER_OPENING = (0.6, 0.3, 0.1, 0.0)
"""Right after an opening bracket, or as a sentence begins: nothing can end."""
END_SHARE = 0.08
"""How often a document ends after a stop."""

TOPIC_0 = END + 1
WORD_0 = TOPIC_0 + TOPICS
NAME_0 = WORD_0 + WORDS
OPEN_0 = NAME_0 + NAMES
CLOSE_0 = OPEN_0 + BRACKETS
STOP = CLOSE_0 + BRACKETS


@register
class Topics:
    """The language; its tables of words are drawn from a fixed seed."""

    name = "synthetic"
    version = 1
    symbols = (
        *(f"topic{topic}" for topic in range(TOPICS)),
        *(f"word{word}" for word in range(WORDS)),
        *(f"name{name}" for name in range(NAMES)),
        *(f"open{kind}" for kind in range(BRACKETS)),
        *(f"close{kind}" for kind in range(BRACKETS)),
        "stop",
    )

    def __init__(self) -> None:
        draw = np.random.Generator(np.random.PCG64(derive_seed(0, "synthetic", self.name, "tables")))
        liked_W = 1 / np.arange(1, WORDS + 1)  # Zipf's law, with each topic's own order
        order_KW = np.stack([draw.random(WORDS).argsort() for _ in range(TOPICS)])
        topic_KW = (liked_W / liked_W.sum())[order_KW]
        before_WW = np.zeros((WORDS, WORDS))
        for share in FOLLOWERS:
            before_WW[np.arange(WORDS), draw.random(WORDS).argsort()] += share
        self.words_KWW = TOPIC_SHARE * topic_KW[:, None] + (1 - TOPIC_SHARE) * before_WW
        """Probability of a word, by topic and the word before."""
        self.first_KW = np.stack([_stationary(words_WW) for words_WW in self.words_KWW])
        """Of the first word of a document: the stationary distribution, so that all later words have it too."""

    def reader(self) -> TopicsReader:
        """Return a reader before the topic."""
        return TopicsReader(self)

    def entropy(self) -> float:
        """Return the exact entropy rate in nats per token.

        Each visit of a state of the chain makes one symbol. What a state's symbol carries is the entropy of what comes
        next, and of which one it is; a word carries the same on average wherever it stands.
        """
        moves_SS, carried_S, start = self._chain()
        visits_S = np.linalg.solve(np.eye(len(moves_SS)) - moves_SS.T, np.eye(len(moves_SS))[start])
        opening = np.log(TOPICS) + entropy_of(self.first_KW).mean()
        return float((opening + visits_S @ carried_S) / (2 + visits_S.sum()))

    def _chain(self) -> tuple[np.ndarray, np.ndarray, int]:
        """Return the probability of each state after each, what its symbol carries in nats, and the first state."""
        word = (self.first_KW * entropy_of(self.words_KWW)).sum(axis=1).mean()
        states = itertools.product(range(DEEPEST + 1), (False, True), range(MOST_NAMES + 1))
        state = {(depth, fresh, names): i for i, (depth, fresh, names) in enumerate(states)}
        moves_SS, carried_S = np.zeros((len(state), len(state))), np.zeros(len(state))
        for (depth, fresh, names), i in state.items():
            end = END_SHARE if fresh and depth == 0 else 0.0
            next_kind = (1 - end) * kinds(depth, fresh)
            ranks = name_ranks(names)
            new = ranks[-1]
            which = (word, entropy_of(ranks) + new * np.log(NAMES - names), np.log(BRACKETS), 0.0)
            carried_S[i] = entropy_of(np.append(next_kind, end)) + next_kind @ which
            moves_SS[i, state[depth, False, names]] += next_kind[WORD] + next_kind[NAME] * (1 - new)
            if new:
                moves_SS[i, state[depth, False, names + 1]] += next_kind[NAME] * new
            if next_kind[OPEN]:
                moves_SS[i, state[depth + 1, True, names]] += next_kind[OPEN]
            after_exit = state[depth - 1, False, names] if depth else state[0, True, names]
            moves_SS[i, after_exit] += next_kind[EXIT]
        return moves_SS, carried_S, state[0, False, 0]


class TopicsReader:
    """A document of `Topics` as far as it has been read."""

    def __init__(self, language: Topics) -> None:
        self._language = language
        self._topic: int | None = None
        self._word: int | None = None
        self._names: list[int] = []
        """Those that were there, the latest last."""
        self._open: list[int] = []
        """Kinds of the open brackets, the last opened last."""
        self._fresh = False
        """Whether a bracket has just opened, or a sentence ended."""

    def probabilities(self) -> np.ndarray:
        """Return the probability of each symbol to come next (V,)."""
        p_V = np.zeros(STOP + 1)
        if self._topic is None:
            p_V[TOPIC_0:WORD_0] = 1 / TOPICS
            return p_V
        if self._word is None:
            p_V[WORD_0:NAME_0] = self._language.first_KW[self._topic]
            return p_V
        p_V[END] = END_SHARE if self._fresh and not self._open else 0.0
        next_kind = (1 - p_V[END]) * kinds(len(self._open), self._fresh)
        p_V[WORD_0:NAME_0] = next_kind[WORD] * self._language.words_KWW[self._topic, self._word]
        *again, new = name_ranks(len(self._names))
        p_V[NAME_0:OPEN_0] = next_kind[NAME] * new / (NAMES - len(self._names))
        for name, share in zip(reversed(self._names), again, strict=True):
            p_V[NAME_0 + name] = next_kind[NAME] * share
        p_V[OPEN_0:CLOSE_0] = next_kind[OPEN] / BRACKETS
        p_V[CLOSE_0 + self._open[-1] if self._open else STOP] = next_kind[EXIT]
        return p_V

    def read(self, symbol: int) -> None:
        """Take in the next symbol."""
        self._fresh = symbol == STOP or OPEN_0 <= symbol < CLOSE_0
        if TOPIC_0 <= symbol < WORD_0:
            self._topic = symbol - TOPIC_0
        elif WORD_0 <= symbol < NAME_0:
            self._word = symbol - WORD_0
        elif NAME_0 <= symbol < OPEN_0:
            name = symbol - NAME_0
            self._names = [*(other for other in self._names if other != name), name]
        elif OPEN_0 <= symbol < CLOSE_0:
            self._open.append(symbol - OPEN_0)
        elif CLOSE_0 <= symbol < STOP:
            self._open.pop()


@cache
def kinds(depth: int, fresh: bool) -> np.ndarray:
    """Return the probability of a word, a name, an opening bracket and an exit, at a depth of open brackets.

    At the deepest, words take the place of opening brackets.
    """
    probabilities = np.array(AFTER_OPENING if fresh else ANYWHERE)
    if depth == DEEPEST:
        probabilities[WORD] += probabilities[OPEN]
        probabilities[OPEN] = 0.0
    return probabilities


@cache
def name_ranks(names: int) -> np.ndarray:
    """Return the probability that a name is the latest, the one before, ... of so many, and last that it is new."""
    new = 1 / (1 + names) if names < MOST_NAMES else 0.0
    again_R = 0.5 ** np.arange(1, names + 1)
    return np.append((1 - new) * again_R / again_R.sum() if names else again_R, new)


def _stationary(words_WW: np.ndarray) -> np.ndarray:
    """Return the distribution (W,) that a chain of words keeps."""
    equations = np.vstack([words_WW.T - np.eye(len(words_WW)), np.ones(len(words_WW))])
    solution_W = np.linalg.lstsq(equations, np.append(np.zeros(len(words_WW)), 1.0), rcond=None)[0]
    return solution_W / solution_W.sum()
