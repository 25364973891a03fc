import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from datasets import Dataset

from moe_models.errors import ConfigError
from trainables.corpora import FileSource, HubSource, WebSource, find_source, read_documents


@pytest.fixture(scope="module")
def web():
    return read_documents(WebSource())


def local_mirror(folder: Path, texts: list[str]) -> HubSource:
    """Write a data set of the Hub's form: a README that declares a configuration of several parquet shards."""
    shards = folder / "cosmopedia-v2"
    shards.mkdir(parents=True)
    half = len(texts) // 2
    for i, part in enumerate((texts[:half], texts[half:])):
        columns = {"prompt": ["Write."] * len(part), "text": part, "token_length": [1] * len(part)}
        with open(shards / f"train-0000{i}-of-00002.parquet", "wb") as file:
            Dataset.from_dict(columns).to_parquet(file)
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: cosmopedia-v2\n  data_files:\n  - split: train\n"
        "    path: cosmopedia-v2/train-*\n---\n"
    )
    return HubSource(dataset=str(folder), tokenizer="none", documents=1000)


def texts_of(source) -> list[str]:
    return [document.text for document in read_documents(source)[0]]


class TestWeb:
    def test_chapters_are_documents_and_books_are_groups(self, web):
        documents, empty = web
        assert (len(documents), empty) == (1189, 0)
        assert len({d.group for d in documents}) == 66
        assert len({d.name for d in documents}) == 1189
        assert {d.name for d in documents if d.group == "Jonah"} == {f"Jonah {i}" for i in range(1, 5)}

    def test_size_is_that_of_the_prose(self, web):
        assert sum(len(d.text) for d in web[0]) == pytest.approx(4_050_000, rel=1e-3)

    def test_no_verse_numbers_markers_or_markup(self, web):
        text = "\n".join(d.text for d in web[0])
        assert re.findall(r"[\d<>{}|*\\]", text) == []
        assert "BOOK I" not in text

    def test_a_psalms_title_is_in_its_own_chapter(self, web):
        by_name = {d.name: d.text for d in web[0]}
        assert by_name["Psalms 3"].startswith("A Psalm by David, when he fled from Absalom, his son. Yahweh, how")
        assert by_name["Psalms 2"].endswith("Blessed are all those who take refuge in him.")
        assert by_name["Job 42"].endswith("So Job died, being old and full of days.")
        assert by_name["Genesis 1"].startswith("In the beginning God created")
        assert by_name["Revelation 22"].endswith("Amen.")

    def test_fingerprint_does_not_import_the_text(self):
        code = (
            "import sys; from trainables.corpora import WebSource; WebSource().fingerprint();"
            "assert not [m for m in sys.modules if m.startswith('pythonbible') or m == 'datasets']"
        )
        subprocess.run([sys.executable, "-c", code], check=True)


class TestFiles:
    def test_txt_documents_are_paragraphs(self, tmp_path):
        path = tmp_path / "a.txt"
        path.write_bytes(b"\xef\xbb\xbfone\r\nmore\r\n\r\n\r\ntwo\n \t\nthree\n\n")
        assert texts_of(FileSource(path)) == ["one\nmore", "two", "three"]

    def test_jsonl_and_parquet_give_equal_documents(self, tmp_path):
        rows = [{"text": f"text {i}", "group": i % 2, "other": 1.5} for i in range(5)]
        (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        with open(tmp_path / "a.parquet", "wb") as file:
            Dataset.from_list(rows).to_parquet(file)
        jsonl = read_documents(FileSource(tmp_path / "a.jsonl"))
        assert jsonl == read_documents(FileSource(tmp_path / "a.parquet"))
        assert [(d.text, d.group) for d in jsonl[0]] == [(f"text {i}", str(i % 2)) for i in range(5)]

    def test_equal_texts_share_a_group(self, tmp_path):
        (tmp_path / "a.txt").write_text("same\n\nother\n\nsame")
        groups = [d.group for d in read_documents(FileSource(tmp_path / "a.txt"))[0]]
        assert groups == ["document 1", "document 2", "document 1"]

    def test_empty_documents_are_counted(self, tmp_path):
        (tmp_path / "a.jsonl").write_text('{"text": "a"}\n{"text": " "}\n{"text": ""}\n')
        documents, empty = read_documents(FileSource(tmp_path / "a.jsonl"))
        assert ([d.text for d in documents], empty) == (["a"], 2)

    def test_reading_leaves_nothing_behind(self, tmp_path, monkeypatch):
        (tmp_path / "a.txt").write_text("one\n\ntwo")
        monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
        texts_of(FileSource(tmp_path / "a.txt"))
        assert os.listdir(tmp_path) == ["a.txt"]

    def test_fingerprint_follows_content_and_name_alone(self, tmp_path):
        for folder, text in (("x", "one"), ("y", "one"), ("z", "two")):
            (tmp_path / folder).mkdir()
            (tmp_path / folder / "a.txt").write_text(text)
        x, y, z = (FileSource(tmp_path / folder / "a.txt").fingerprint() for folder in "xyz")
        assert x == y != z


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("wbe", "unknown corpus 'wbe': did you mean 'web'?"),
        ("smolm", "did you mean 'smollm'?"),
        ("smollm:none", "the number of documents, 1 or more"),
        ("smollm:0", "the number of documents, 1 or more"),
        ("nothing.txt", "'nothing.txt' does not exist"),
        ("some/where", "must be a file that ends in one of .txt, .jsonl, .parquet"),
    ],
)
def test_unknown_corpora(spec, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        find_source(spec)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"", "is empty"),
        ("a.txt", b"\n \n\n", "is empty"),
        ("a.txt", b"\xff\xfe\x00\x81abc", "is not text: 'utf-8' codec can't decode byte 0xff"),
        ("a.txt", b"a\n\nb\x00c", "document 2: column 'text' is not text but binary data"),
        ("a.jsonl", b"", "is empty"),
        ("a.jsonl", b"\n\n", "is empty"),
        ("a.jsonl", b'{"text": "a"}\nnot json\n', "cannot be read as .jsonl"),
        ("a.jsonl", b'{"text": "\xff"}\n', "is not text"),
        ("a.jsonl", b'{"words": "a", "n": 1}\n', "document 1: there is no column 'text', only 'words', 'n'"),
        ("a.jsonl", b'{"text": "a"}\n{"text": null}\n', "document 2: column 'text' is not text but NoneType"),
        ("a.jsonl", b'{"text": 3}\n', "document 1: column 'text' is not text but int 3"),
        ("a.jsonl", b'{"text": "a", "group": 1}\n{"text": "b"}\n', "document 2: column 'group' is empty"),
        ("a.parquet", b"hello", "cannot be read as .parquet"),
    ],
)
def test_bad_files_give_one_line(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read_documents(find_source(str(path)))
    assert message in str(caught.value)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_nothing_is_printed_beside_the_error(tmp_path, name):
    (tmp_path / name).write_text("neither")
    code = (
        "from trainables.corpora import ConfigError, find_source, read_documents\n"
        f"try: read_documents(find_source({str(tmp_path / name)!r}))\n"
        "except ConfigError: pass"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert (done.stdout, done.stderr) == (b"", b"")


class TestHub:
    def test_streams_the_first_documents_of_a_mirror(self, tmp_path):
        source = local_mirror(tmp_path / "mirror", [f"text {i}" for i in range(10)])
        assert texts_of(source) == [f"text {i}" for i in range(10)]
        assert texts_of(HubSource(dataset=source.dataset, documents=7)) == [f"text {i}" for i in range(7)]

    def test_default_is_a_thousand_documents_of_cosmopedia(self):
        assert find_source("smollm").fingerprint() == {
            "kind": "hub",
            "dataset": "HuggingFaceTB/smollm-corpus",
            "config": "cosmopedia-v2",
            "tokenizer": "HuggingFaceTB/SmolLM-135M",
            "documents": 1000,
        }
        assert find_source("smollm:8000") == HubSource(documents=8000)

    @pytest.mark.parametrize("ask", ["rows", "published_tokenizer"])
    def test_unreachable_hub_is_one_error(self, ask):
        with socket.socket() as server:  # bound, so that nobody else takes the port, but never listening
            server.bind(("127.0.0.1", 0))
            endpoint = f"http://127.0.0.1:{server.getsockname()[1]}"
            code = (
                "from trainables.corpora import HubSource, ConfigError\n"
                f"try: print(list(HubSource().{ask}()))\n"
                "except ConfigError as error: print(error)"
            )
            environment = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": "0"}
            done = subprocess.run(
                [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120
            )
        (message,) = done.stdout.splitlines()
        assert message.startswith("corpus 'smollm' cannot be read from the Hugging Face Hub")
        assert "--corpus web" in message
        assert done.stderr == ""

    def test_silent_hub_is_given_up(self, monkeypatch):
        with socket.socket() as server:
            server.bind(("127.0.0.1", 0))
            server.listen()
            monkeypatch.setattr(
                "huggingface_hub.hf_api.constants.ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}"
            )
            monkeypatch.setattr(HubSource, "timeout_seconds", 0.2)
            with pytest.raises(ConfigError, match=r"timed out.*--corpus web"):
                list(HubSource().rows())

    def test_unknown_configuration_of_a_mirror(self, tmp_path):
        source = local_mirror(tmp_path / "mirror", ["a", "b"])
        with pytest.raises(ConfigError, match="'wrong' not found"):
            list(HubSource(dataset=source.dataset, config="wrong").rows())
