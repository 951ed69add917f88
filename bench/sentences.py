"""A real set of any size up to ten million rows: English sentences of Debian packages, with queries and neighbours.

    python -m bench.sentences FOLDER [--rows 64000,256000,1024000] [--window 2] [--queries 1000] [--processes 2]

The text is what people wrote for people in packages of Debian 12: manuals, books, comments of programs, descriptions of
interfaces. PACKAGES names them, with the licence of most of their files; FOLDER/packages takes them by `apt-get
download` where it does not hold them yet (2.3 GB). The model is that of `bench.linux_windows`: `wordllama` 0.4
(`pip install wordllama==0.4.0.post1`; MIT, its weights of 256 dimensions in the wheel), the mean of the vectors of the
tokens. Nothing else is fetched, and what this writes is not for passing on without these licences.

`bench/prose.py` says what counts as a sentence. There are 5.0 million, so a row is a sentence, or a window of two that
are neighbours in a file, of which there are 6.3 million more (--window 1: none of these; 3: of three too). Texts are
distinct: one that occurs many times is one row. Their order is that of a hash, so the first rows of a set are a sample
of it, and a smaller set is the beginning of a larger one. One sentence of 2,048, also by its hash, is in no row, nor
are windows with it: the first 1,000 of these are the queries.

FOLDER gets the rows once, `rows/part-*.parquet` of 64,000 each: `id`, unique; `vector`, unit length, f16; `package`;
`sentences`, how many; `text`, the first 200 bytes. `rows-N` has links to the first files of these, and
`queries-N.parquet` the queries with `neighbors`, row numbers of the 100 nearest by cosine. Each is there as soon as so
many rows are embedded. Passages are shuffled in 256 files on disk, so memory holds one of these, and some batches. The
same command goes on where one was ended.
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from hashlib import blake2b
from itertools import islice, takewhile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from bench.prose import files, paragraphs, sentences
from bench.texts import (
    GROUP_ROWS,
    PROCESSES,
    TEXT_MAX,
    Writer,
    embedded,
    fetched,
    lists,
    nearer,
    neighbours,
    spent,
    unpacked,
    write_queries,
)

PACKAGES = {  # of main, by the licence of most of their files
    "BSD": """
        acl2-books-source cmake-doc dcmtk-doc dpdk-dev dpdk-doc efl-doc fortunes gdcm-doc ghc-doc golang-1.19-src
        golang-golang-x-tools-dev golang-google-api-dev libcoin-doc libdcmtk-dev libgo-12-dev libjogl2-java-doc
        libpcl-dev libpcl-doc libpetsc3.18-dev-common libquantlib0-dev libtorch-dev libtrilinos-teuchos-dev
        libvtk9-dev libwebkit2gtk-4.0-doc nginx-doc petsc3.18-doc puredata-core puredata-doc python-astropy-doc
        python-dask-doc python-django-doc python-pandas-doc python-scipy-doc python-sympy-doc python3-biopython
        python3-dask python3-dipy python3-django python3-mne python3-networkx python3-numpy python3-qutip
        python3-skimage python3-sklearn python3-statsmodels python3-sunpy python3-torch python3-yt scala-doc
        seqan3-doc varnish-doc
    """,
    "GPL-2 or later": """
        anarchism bzr-doc crawl-common debian-edu-doc-en debian-faq debian-policy debian-reference-en
        developers-reference emacspeak exim4-doc-html fp-docs-3.2.2 fpc-source-3.2.2 gap-doc git-doc gnucash-common
        grass-dev-doc grass-doc haproxy-doc installation-guide-amd64 iproute2-doc lammps-doc lazarus-doc-2.2
        lazarus-src-2.2 libball1.5-doc lintian linux-source-6.1 lyx-common macaulay2-common manpages manpages-dev
        maxima-doc mercurial-common miscfiles mit-scheme-doc ns3-doc phpmyadmin pike8.0-doc postgis-doc python3-sage
        qemu-system-common r-base-html scilab-doc slurm-wlm-doc squid-common supercollider-common tla-doc
        wesnoth-1.16-core xen-doc
    """,
    "Apache-2.0": """
        ant-doc apache2-doc bazel-bootstrap-source cinder-doc derby-doc erlang-doc golang-github-aws-aws-sdk-go-dev
        golang-github-aws-aws-sdk-go-v2-dev golang-github-azure-azure-sdk-for-go-dev golang-github-docker-docker-dev
        golang-google-cloud-dev golang-google-genproto-dev golang-gvisor-gvisor-dev groovy-doc keystone-doc
        libapache-poi-java-doc libcommons-math3-java-doc libinsighttoolkit5-dev libmbedtls-doc libsimbody-dev
        libspring-core-java libssl-doc libxerces2-java-doc neutron-doc node-typescript nova-doc octavia-doc opencv-doc
        python3-botocore python3-cinder python3-heat python3-ironic python3-keystone python3-kubernetes python3-manila
        python3-neutron python3-nltk python3-nova python3-swift python3-xarray ruby-google-api-client subversion
        uima-doc
    """,
    "GPL-3 or later": """
        ada-reference-manual-2020 ansible auctex autoconf-doc binutils-source cppreference-doc-en-html dict-gcide
        elpa-magit elpa-org emacs-common emacs-el endless-sky-data gcc-12-source gdb-source
        golang-github-snapcore-snapd-dev gretl-common kicad-doc-en libjuce-doc lilypond-data lilypond-doc-html
        octave-doc pspp python3-hyperspy uhd-host weka-doc xemacs21-basesupport-el
    """,
    "LGPL": """
        casacore-doc dovecot-core ffmpeg-doc freecad-common glibc-source libbiojava-java-doc libclutter-1.0-doc
        libdap-doc libglib2.0-doc libgtk-3-doc libgtk-4-doc libgtkmm-3.0-doc libgtkmm-4.0-doc
        librust-sequoia-openpgp-dev libsbml5-doc libvirt-doc lxc-dev plplot-doc python3-ase python3-openturns
        racket-doc systemd tango-common
    """,
    "MIT or ISC": """
        icu-doc inn2 libarm-compute-doc libcegui-mk2-doc libgecode-doc librust-gtk4-dev librust-tokio-dev
        libvigraimpex-doc libx11-doc nodejs-doc ogre-1.12-doc psychtoolbox-3-common python-sqlalchemy-doc
        python3-azure python3-gdal python3-nibabel python3-plotly python3-pymatgen python3-spyder python3-twisted
        twisted-doc
    """,
    "public domain or CC0": """
        cmucl-source dict-devil dict-jargon metamath-databases sbcl-source slime sqlite3-doc
    """,
    "GFDL": "csound-doc dict-foldoc dict-vera gimp-help-en guile-3.0-doc shorewall-doc",
    "MPL-2.0": "bind9-doc libeigen3-doc libopenvdb-doc libreoffice-dev-common libreoffice-help-en-us",
    "GPL-1+ or Artistic": "libbio-perl-perl libimage-exiftool-perl pdl perl-doc",
    "PSF-2": "jython-doc libpython3.11-stdlib python3-matplotlib python3.11-doc",
    "Apache-2.0 or MIT": "librust-web-sys-dev rust-doc rust-src",
    "Apache-2.0 with the LLVM exception": "libclang-19-dev llvm-19-dev llvm-19-doc",
    "BSL-1.0": "libboost1.81-dev libboost1.81-doc libgphobos-12-dev",
    "CC-BY-SA": "cataclysm-dda-data gnome-devel-docs gnome-user-docs",
    "GPL-2+ or LGPL-3": "qtbase5-doc-html qtdeclarative5-doc-html qtmultimedia5-doc-html",
    "GPL-2 with the Classpath exception": "libopenjfx-java-doc openjdk-17-source",
    "Tcl": "tcl8.6-doc tk8.6-doc",
    "AGPL-3": "git-annex",
    "CMU": "cyrus-doc",
    "GPL-2 or Angband": "angband-data",
    "GPL-2 or later, or CC-BY-SA-3.0": "debian-handbook",
    "GPL-2+ or LGPL-2+ with StaticLinking exception": "castle-game-engine-src",
    "GPL-3 or LGPL-3": "clhep-doc",
    "GPL-3+ and LGPL-3+": "libcgal-dev",
    "IDPL": "firebird3.0-doc",
    "IPL": "openafs-modules-source",
    "IRAF": "iraf",
    "ImageMagick": "imagemagick-6-doc",
    "MIT Kerberos": "krb5-doc",
    "MPICH": "mpich-doc",
    "NTP": "ntp-doc",
    "OSGPL": "openscenegraph-doc",
    "PostgreSQL": "postgresql-doc-15",
    "Ruby or BSD": "ruby3.1-doc",
    "Sendmail": "sendmail-doc",
    "Vim": "vim-runtime",
    "ZPL-2.1": "mingw-w64-common",
    "Zsh": "zsh-doc",
    "curl": "libcurl4-doc",
    "wxWindows": "wx3.2-doc",
}
WINDOW = 2  # sentences of the longest rows
BUCKETS = 256  # files that passages are put into by the first two digits of their key
HELD_OUT = "002"  # sentences of lower keys, two of 4,096, are in no row
PART_ROWS = 4 * GROUP_ROWS
SHOWN_BYTES = 200  # of the text of a row


class Passage(NamedTuple):
    """Some neighbouring sentences of a file. key: 16 hex digits, a hash of the text, by which passages are shuffled."""

    key: str
    sentences: int
    package: str
    text: str


def passages(found: Iterable[str], package: str, window: int = WINDOW) -> Iterator[Passage]:
    """The sentences of a file and the windows of up to `window` of them, but no window with one that is held out."""
    behind: list[str] = []
    for sentence in found:
        own = Passage(_key(sentence), 1, package, sentence)
        yield own
        behind = [*behind, sentence][-window:] if own.key >= HELD_OUT else []
        for count in range(2, len(behind) + 1):
            text = " ".join(behind[-count:])[:TEXT_MAX]
            yield Passage(_key(text), count, package, text)


def _key(text: str) -> str:
    return blake2b(text.encode(), digest_size=8).hexdigest()


def spill(packages: Iterable[tuple[str, Path]], folder: Path, window: int) -> None:
    """Writes the passages of packages, each a line, to a file of folder by the beginning of their key."""
    folder.mkdir(parents=True)
    buckets = [(folder / f"{i:02x}").open("w") for i in range(BUCKETS)]
    for name, package in packages:
        with unpacked(package) as archive:
            for path, text in files(archive):
                for one in passages(sentences(paragraphs(path, text)), name, window):
                    buckets[int(one.key[:2], 16)].write("\t".join(map(str, one)) + "\n")
    for bucket in buckets:
        bucket.close()


def shuffle(spilled: list[Path], folder: Path) -> Counter[int]:
    """Sorts what was spilled by key and drops repeated texts, a bucket at a time; returns how many passages are left of
    each number of sentences. A text of several packages is of the first one by name. Removes what was spilled.
    """
    folder.mkdir(parents=True)
    left: Counter[int] = Counter()
    for i in range(BUCKETS):
        parts = [part / f"{i:02x}" for part in spilled]
        lines = sorted(line for part in parts for line in part.open())
        with (folder / f"{i:02x}").open("w") as out:
            last = ""
            for line in lines:
                key, count, _ = line.split("\t", 2)
                if key != last and (count == "1" or key >= HELD_OUT):
                    out.write(line)
                    left[int(count)] += 1
                last = key
        for part in parts:
            part.unlink()
    return left


def shuffled(folder: Path) -> Iterator[Passage]:
    """What `shuffle` left, in the order of the keys."""
    for i in range(BUCKETS):
        with (folder / f"{i:02x}").open() as lines:
            for line in lines:
                key, count, package, text = line.rstrip("\n").split("\t")
                yield Passage(key, int(count), package, text)


def columns(some: list[Passage], first: int) -> dict[str, pa.Array]:
    """What is stored of passages beside their vectors; first: the id of the first one."""
    return {
        "id": pa.array(range(first, first + len(some)), pa.int64()),
        "package": pa.array([one.package for one in some], pa.string()),
        "sentences": pa.array([one.sentences for one in some], pa.int8()),
        "text": pa.array([one.text.encode()[:SHOWN_BYTES].decode(errors="ignore") for one in some], pa.string()),
    }


def main() -> None:
    """Makes the sets, and prints what each step took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", default="64000,256000,1024000")
    parser.add_argument("--window", type=int, default=WINDOW)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--processes", type=int, default=PROCESSES)
    options = parser.parse_args()
    sizes, asked = sorted(int(n) for n in options.rows.split(",")), options.queries
    if any(size % PART_ROWS for size in sizes[:-1]):
        raise SystemExit(f"a set of {PART_ROWS:,} rows is a file of the next larger: --rows must be multiples of it")
    held, began = options.folder / "packages", time.monotonic()
    held.mkdir(parents=True, exist_ok=True)
    order, scratch = options.folder / "shuffled", options.folder / "spilled"
    if not order.exists():
        shutil.rmtree(scratch, ignore_errors=True)
        names = [name for some in PACKAGES.values() for name in some.split()]
        packages = sorted(zip(names, fetched(held, names), strict=True), key=lambda one: -one[1].stat().st_size)
        parts = [scratch / str(i) for i in range(options.processes)]
        some = [packages[i :: options.processes] for i in range(options.processes)]
        with ProcessPoolExecutor(options.processes) as pool:
            list(pool.map(spill, some, parts, [options.window] * options.processes))
        print(f"{len(packages)} packages read: {spent(began)}", flush=True)
        left = shuffle(parts, scratch / "all")
        (scratch / "all").rename(order)
        shutil.rmtree(scratch)
        told = ", ".join(f"{count:,} passages of {of}" for of, count in sorted(left.items()))
        print(f"shuffled: {told}: {spent(began)}", flush=True)
    queries = list(takewhile(lambda one: one.key < HELD_OUT, shuffled(order)))[:asked]
    if len(queries) < asked:
        raise SystemExit(f"{len(queries):,} sentences are held out, and {asked:,} are asked for: lower --queries")
    vectors = np.concatenate([some for _, some in embedded(queries, 1)])
    near, below = (np.empty((asked, 0), np.int32), np.empty((asked, 0), np.float32)), 0
    writer = Writer(options.folder / "rows", PART_ROWS)
    rows = islice((one for one in shuffled(order) if one.key >= HELD_OUT), writer.rows, None)
    for size in sizes:
        for batch, found in embedded(islice(rows, max(0, size - writer.rows)), options.processes):
            writer.add(pa.table({**columns(batch, asked + writer.taken), "vector": lists(found)}))
        if size == sizes[-1]:
            writer.close()
        if writer.rows < size:
            raise SystemExit(f"{writer.rows:,} passages are too few for {size:,} rows: raise --window")
        folder, path = options.folder / f"rows-{size}", options.folder / f"queries-{size}.parquet"
        if path.exists():
            continue
        folder.mkdir(exist_ok=True)
        for part in sorted(writer.folder.glob("part-*.parquet"))[: -(-size // PART_ROWS)]:
            (folder / part.name).unlink(missing_ok=True)
            (folder / part.name).hardlink_to(part)
        near, below = nearer(near, neighbours(vectors, folder, below)), size
        told = write_queries(path, columns(queries, 0), vectors, *near)
        print(f"{size:,} rows: {told}: {spent(began)}", flush=True)
    shutil.rmtree(order)


if __name__ == "__main__":
    main()
