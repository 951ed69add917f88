"""Sets of sentences (bench/prose.py, bench/sentences.py, bench/texts.py): what is read from made-up packages."""

import gzip
import io
import tarfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bench import sentences as made
from bench import texts
from bench.prose import files, kind, natural, paragraphs, sentences

PAGE = """<html><head><title>The title is not read by anyone.</title></head><body>
<p>The <b>first</b> sentence has an <a href="x">inline tag</a>, i.e. a short one. This isn&#39;t the last.</p>
<pre>The code of an example is not a sentence.</pre>
<ul><li>An item that stands alone is read.</li></ul></body></html>"""
SOURCE = """/* The comment goes over
 * two lines of the file. */
static int the_code = 1; // The end of a line is left out.
// This is what a run of
// such lines says together.
int x;
"""
MANUAL = """.TH NAME 1
.SH NAME
The \\fBname\\fR is set with the
.B option
of the command.
"""


def tar(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def found_in(data: bytes) -> dict[str, list[str]]:
    with tarfile.open(fileobj=io.BytesIO(data), mode="r|") as archive:
        return {path: list(sentences(paragraphs(path, text))) for path, text in files(archive)}


def test_every_kind_of_file_and_archives_in_archives_are_read() -> None:
    inner = gzip.compress(
        tar({"a/notes.txt": b"The notes are in an archive\nof the archive.\n\nNo end, so the rest is not"})
    )
    found = found_in(
        tar(
            {
                "usr/share/doc/page.html": PAGE.encode(),
                "usr/src/file.c": SOURCE.encode(),
                "usr/share/man/man1/name.1.gz": gzip.compress(MANUAL.encode()),
                "usr/src/more.tar.gz": inner,
                "usr/share/doc/changelog.gz": gzip.compress(b"The log of changes is not read."),
                "usr/bin/program": b"\x7fELF\0The strings of a program are not read.",
                "usr/share/image.png": b"The picture is not text.",
                "usr/test/damaged.zip": b"PK The archive is damaged.",
                "usr/test/damaged.txt.gz": b"The data are not compressed.",
                "usr/test/short.txt.gz": gzip.compress(b"The data are cut off at the end.")[:-9],
                "usr/test/damaged.tar.xz": b"\xfd7zXZ\0The archive is damaged.",
            }
        )
    )
    assert {path: some for path, some in found.items() if some} == {
        "usr/share/doc/page.html": [
            "The first sentence has an inline tag, i.e. a short one.",
            "This isn't the last.",
            "An item that stands alone is read.",
        ],
        "usr/src/file.c": [
            "The comment goes over two lines of the file.",
            "This is what a run of such lines says together.",
        ],
        "usr/share/man/man1/name.1": ["The name is set with the option of the command."],
        "a/notes.txt": ["The notes are in an archive of the archive."],
    }
    assert kind("doc/octave.info-3") == kind("README") == "plain"


@pytest.mark.parametrize(
    "text",
    [
        "the first letter is small in this one.",
        "The end is missing in this one",
        "The x = y[0]; z += f(x) { return; } while (1) of it.",
        "Dieser Satz hat viele Silben, aber keine davon kommt aus England.",
        "The end of it.",
        "The long one " + "goes on and on " * 40 + "to the end.",
    ],
)
def test_other_text_is_no_sentence(text: str) -> None:
    assert natural("The one that is a sentence goes through.") and not natural(text)


def numbered(low: int, high: int) -> list[str]:
    return [f"This is the sentence with the number {i} of them." for i in range(low, high)]


def test_passages_are_distinct_shuffled_by_hash_and_held_out_sentences_are_in_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packages = {"b": numbered(0, 3000), "a": numbered(2000, 6000)}

    @contextmanager
    def unpacked(package: Path):  # type: ignore[no-untyped-def]
        with tarfile.open(fileobj=io.BytesIO(tar({"x.txt": "\n\n".join(packages[package.name]).encode()}))) as archive:
            yield archive

    monkeypatch.setattr(made, "unpacked", unpacked)

    def shuffled(*parts: list[str]) -> list[made.Passage]:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        spilled = [folder / str(i) for i in range(len(parts))]
        for names, to in zip(parts, spilled, strict=True):
            made.spill([(name, Path(name)) for name in names], to, 2)
        left = made.shuffle(spilled, folder / "all")
        found = list(made.shuffled(folder / "all"))
        assert left == {n: sum(one.sentences == n for one in found) for n in left}
        return found

    found = shuffled(["a", "b"])
    assert found == shuffled(["b"], ["a"])  # however packages are spread over processes
    keys, at = [one.key for one in found], {one.text: one for one in found}
    assert keys == sorted(set(keys)) and len(at) == len(found)
    single = [one for one in found if one.sentences == 1]
    assert sorted(one.text for one in single) == sorted(numbered(0, 6000))
    assert {at[text].package for text in numbered(2000, 3000)} == {"a"}  # of two packages the first by name
    held = [one.text for one in found if one.key < made.HELD_OUT]
    assert held and all(at[text].sentences == 1 for text in held)
    pairs = {" ".join(numbered(i, i + 2)) for i in range(5999)}
    wanted = {pair for pair in pairs if not any(text in pair for text in held)}
    assert {one.text for one in found if one.sentences == 2} == {
        text for text in wanted if made._key(text) >= made.HELD_OUT
    }
    number = [int(one.text.split()[7]) for one in single]
    assert abs(np.corrcoef(number, np.arange(len(number)))[0, 1]) < 0.1  # the beginning is a sample


def test_files_of_a_set_and_neighbours_of_its_beginnings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts, "GROUP_ROWS", 100)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((450, texts.DIMENSION)).astype(np.float16)
    writer = texts.Writer(tmp_path / "rows", 200)
    for low in range(0, 333, 37):
        writer.add(pa.table({"vector": texts.lists(x[low : low + 37])}))
    del writer  # ended in the second file
    writer = texts.Writer(tmp_path / "rows", 200)
    assert writer.rows == 200
    for low in range(200, 450, 37):
        writer.add(pa.table({"vector": texts.lists(x[low : low + 37])}))
    writer.close()
    parts = sorted((tmp_path / "rows").iterdir())
    assert [pq.read_metadata(part).num_rows for part in parts] == [200, 200, 50] and writer.rows == writer.taken == 450
    queries = rng.standard_normal((5, texts.DIMENSION)).astype(np.float16)
    whole = texts.neighbours(queries, tmp_path / "rows")
    scores = queries.astype(np.float32) @ x.astype(np.float32).T
    assert np.array_equal(whole[0], np.argsort(-scores, axis=1)[:, : texts.K])
    (tmp_path / "first").mkdir()
    (tmp_path / "first" / parts[0].name).hardlink_to(parts[0])
    first, rest = texts.neighbours(queries, tmp_path / "first"), texts.neighbours(queries, tmp_path / "rows", 200)
    assert all(np.array_equal(a, b) for a, b in zip(texts.nearer(first, rest), whole, strict=True))


def test_the_intrinsic_dimension_is_that_of_the_space_of_the_rows() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((20_000, 6)) * 0.2
    x = np.concatenate([x, np.ones((len(x), 1))], axis=1)  # near a plane of 6 dimensions
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    cost = np.sort(-(x[:50] @ x.T).astype(np.float32), axis=1)[:, : texts.K]  # the nearest is the query itself
    assert abs(texts.intrinsic_dimension(cost) - 6) < 1
