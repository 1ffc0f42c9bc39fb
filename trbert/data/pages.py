"""The default data set, `pages`: documentation pages of the installed libraries, without the names of the libraries.

A page is one docstring of more than 600 characters. Its label is the library that it documents. Docstrings are read
from the source files; no library is imported. Everything that gives the library away is masked or removed: the names of
libraries, the aliases under which they are imported, module paths, and the markup of each library's docstrings.
"""

import ast
import contextlib
import gc
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import sysconfig
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from itertools import islice
from pathlib import Path

from trbert.disk.cache import Entry
from trbert.errors import InputError

FORMAT = 1
"""The version of the rules in this file. It rises when they change, so that caches of older rules are not read."""

PYTHON = "python"
LIBRARIES = {
    "torch": "torch",
    "transformers": "transformers",
    "datasets": "datasets",
    "ray": "ray",
    "gymnasium": "gymnasium",
    "numpy": "numpy",
    "pandas": "pandas",
    "pyarrow": "pyarrow",
    "optuna": "optuna",
    "sympy": "sympy",
    "networkx": "networkx",
    "sqlalchemy": "SQLAlchemy",
    "huggingface_hub": "huggingface-hub",
}
"""The libraries that may have pages, each with its import name and its distribution name.

They are requirements of trbert, and requirements of those. Libraries of optional extras are not among them, so that the
labels do not depend on the extras that are installed.
"""

MIN_CHARACTERS = 600
MAX_CHARACTERS = 6000
MIN_PAGES = 100
MAX_PAGES = 1000
MASK = "library"
SHARES = {"train": 0.8, "validation": 0.1, "test": 0.1}

_LEFT_OUT_FOLDERS = {"site-packages", "dist-packages", "test", "tests", "testing", "idlelib", "__pycache__"}
_VENDORED = re.compile(r"_?(vendor|third_?party|extern)")
_TEST_FILE = re.compile(r"(test_.*|.*_test|conftest)\.py")

_MARKUP = (
    (re.compile(r"^[ \t]*\.\. (?:versionadded|versionchanged|deprecated|_).*$", re.MULTILINE), ""),
    (re.compile(r"^[ \t]*\.\. [\w:-]+::", re.MULTILINE), ""),
    (
        re.compile(r"^[ \t]*:(?:param|parameter|arg|type|returns?|rtype|raises|keyword)\b([^:\n]*):", re.MULTILINE),
        r"\1 ",
    ),
    (
        re.compile(
            r"^[ \t]*(?:Args|Arguments|Keyword Args|Parameters|Other Parameters|Returns?|Raises|Yields|Examples?|Notes?"
            r"|See Also|References|Attributes|Warnings?|Warns|Usage|Inputs?|Outputs?|Shape)[ \t]*:{0,2}[ \t]*$",
            re.MULTILINE,
        ),
        "",
    ),
    (re.compile(r"^[ \t]*(?:(?:>>>|\.\.\.)|([^\w\s])\1{2,}.*$)", re.MULTILINE), ""),
    (re.compile(r":(?:\w+:)?\w+:(?=`)"), ""),
    (re.compile(r"</?\w[^<>\n]*>|https?://\S+|\[`|`\]|[`~*#|\\]|::"), " "),
)
_NAMES = {
    name: re.compile(name, re.IGNORECASE)
    for name in (
        *(
            "torch",
            "gymnasium",
            "numpy",
            "pandas",
            "pyarrow",
            "optuna",
            "sympy",
            "networkx",
            "sqlalchemy",
            "huggingface",
        ),
        *("tensorflow", "keras", "scikit-learn", "sklearn", "scipy", "matplotlib", "python", "rllib", "raylet"),
    )
}
_SHORT_NAMES = (
    (re.compile(r"[Hh]ugging [Ff]ace|🤗"), MASK),
    (re.compile(r"(?<![A-Za-z])(?:ray|Ray|RAY|gym|Gym|hf|HF|Hf)(?![a-z])"), MASK),
    (re.compile(r"\b(?:[Tt]ransformers|[Dd]atasets|np|pd|nx|jnp)\b"), MASK),
    (re.compile(r"\b(?:tf|sa|pa|plt|sp|ds|F|nn|tune)(?=\.\w)"), MASK),
    (re.compile(rf"\b\w*{MASK}\w*(?:(?:\.\w+)*\.(?=\w))?"), f"{MASK} "),
    (re.compile(r"(?<![\w.])_[a-z]+\.(?=\w)"), ""),
)


@dataclass(frozen=True, slots=True)
class Page:
    """One documentation page.

    Attributes:
        text: the docstring on one line, masked and without markup.
        library: the import name of the library that it documents, or `python` for the standard library.
        split: `train`, `validation` or `test`.
    """

    text: str
    library: str
    split: str


def documentation_pages() -> list[Page]:
    """Returns the pages of the installed libraries. They are read from the cache if there is one that is not damaged.

    The same versions of the libraries give the same pages in the same order. All pages of a folder are in the same
    split. Where one folder holds more than a tenth of a library's pages, all pages of a file are.
    """
    versions = {library: version for library, (_, version) in _installed().items()}
    key = hashlib.sha256(json.dumps([FORMAT, versions]).encode()).hexdigest()[:16]
    entry = Entry("pages", key)
    pages = _read_cache(entry)
    if pages is None:
        pages = build_pages({library: root for library, (root, _) in _installed().items()})
        _write_cache(entry, pages)
    return pages


def build_pages(roots: dict[str, Path], min_pages: int = MIN_PAGES, max_pages: int = MAX_PAGES) -> list[Page]:
    """Returns the pages of the libraries with the given source folders. It is slow, because it reads all sources.

    Args:
        roots: the source folder of each library, by its import name.
        min_pages: the fewest pages of a library. One with fewer is left out.
        max_pages: the most pages of a library. Its folders are read in the order of a hash until there are so many.
    """
    seen: set[str] = set()
    pages: list[Page] = []
    with _quiet_parsing():
        for library in sorted(roots):
            found = list(islice(_fresh(_masked_docstrings(roots[library]), seen), max_pages))
            if len(found) >= min_pages:
                split_of = _split_by_module([file for file, _ in found])
                pages += [Page(text, library, split_of[file]) for file, text in found]
    return pages


def mask_names(docstring: str) -> str:
    r"""Returns a docstring on one line, without markup and without the names of libraries.

    Example:
        >>> mask_names("Like :func:`numpy.linalg.norm`.\n\n>>> torch.nn.Linear(2, 3)")
        'Like library norm . library Linear(2, 3)'
    """
    for pattern, replacement in _MARKUP:
        docstring = pattern.sub(replacement, docstring)
    lowered = docstring.lower()
    for name, pattern in _NAMES.items():
        if name in lowered:  # most names are not there, and this search is faster than a regular expression
            docstring = pattern.sub(MASK, docstring)
    for pattern, replacement in _SHORT_NAMES:
        docstring = pattern.sub(replacement, docstring)
    return " ".join(docstring.split())


def _installed() -> dict[str, tuple[Path, str]]:
    """Returns the source folder and the version of each library that is installed. No library is imported."""
    found = {PYTHON: (Path(sysconfig.get_path("stdlib")), platform.python_version())}
    for library, distribution in LIBRARIES.items():
        spec = importlib.util.find_spec(library)
        if spec is None or not spec.submodule_search_locations:
            continue
        try:
            version = importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            continue
        found[library] = (Path(next(iter(spec.submodule_search_locations))), version)
    return found


def _masked_docstrings(root: Path) -> Iterator[tuple[Path, str]]:
    """Yields every long docstring, masked, with its file relative to `root`. Folders come in the order of a hash."""
    files = sorted(_source_files(root), key=lambda file: (_hash(_folder(file)), file.as_posix()))
    for file in files:
        source = (root / file).read_bytes()
        if not _may_hold_a_page(source):
            continue
        for docstring in _docstrings(source):
            text = mask_names(docstring[:MAX_CHARACTERS])
            if len(text) > MIN_CHARACTERS:
                yield file, text


def _fresh(found: Iterable[tuple[Path, str]], seen: set[str]) -> Iterator[tuple[Path, str]]:
    """Yields the docstrings whose words are not in `seen` yet, and adds their words to it."""
    for file, text in found:
        words = re.sub(r"\W+", " ", text.lower())
        if words not in seen:
            seen.add(words)
            yield file, text


def _source_files(root: Path) -> Iterator[Path]:
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if name not in _LEFT_OUT_FOLDERS and not _VENDORED.match(name)]
        for name in files:
            if name.endswith(".py") and not _TEST_FILE.fullmatch(name):
                yield (Path(folder) / name).relative_to(root)


def _may_hold_a_page(source: bytes) -> bool:
    """Returns whether any triple-quoted string is long enough for a page. Other files need not be parsed."""
    return any(len(string) > MIN_CHARACTERS for quotes in (b'"""', b"'''") for string in source.split(quotes)[1::2])


def _docstrings(source: bytes) -> list[str]:
    """Returns the long docstrings of a file's module, classes and functions, in the order of the file."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):  # a template, or a file for another version of Python
        return []
    found: list[str] = []
    _collect(tree, found)
    return found


def _collect(node: ast.AST, found: list[str]) -> None:
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        docstring = ast.get_docstring(node)
        if docstring is not None and len(docstring) > MIN_CHARACTERS:
            found.append(docstring)
    if isinstance(node, ast.Module | ast.ClassDef | ast.If | ast.Try | ast.ExceptHandler):
        for field in ("body", "orelse", "handlers"):
            for child in getattr(node, field, ()):
                _collect(child, found)


@contextmanager
def _quiet_parsing() -> Iterator[None]:
    """Switches off warnings about the parsed sources, and garbage collection, while the sources are parsed.

    Garbage collection would only cost time, because syntax trees have no reference cycles.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        if collecting:
            gc.enable()


def _split_by_module(files: Sequence[Path]) -> dict[Path, str]:
    """Returns the split of each file of a library. The files of a folder are one group, and are in the same split.

    A folder that holds more than a tenth of the pages is not one group: there each file is its own group. The groups
    are assigned from the largest to the smallest; equal ones in the order of a hash. Each goes to the split that lacks
    the most pages, so that every split gets its share of every library.

    Args:
        files: the file of each page; a file with several pages is listed several times.
    """
    in_folder = Counter(_folder(file) for file in files)
    group_of = {
        file: file.as_posix() if in_folder[_folder(file)] > 0.1 * len(files) else _folder(file) for file in files
    }
    pages = Counter(group_of[file] for file in files)
    lacking = {split: share * len(files) for split, share in SHARES.items()}
    split_of: dict[str, str] = {}
    for group in sorted(pages, key=lambda name: (-pages[name], _hash(name))):
        split = max(lacking, key=lambda name: lacking[name])
        split_of[group] = split
        lacking[split] -= pages[group]
    return {file: split_of[group] for file, group in group_of.items()}


def _folder(file: Path) -> str:
    """Returns the folder of a file. A file in the root counts as a folder of its own."""
    return file.parent.as_posix() if file.parent.parts else file.as_posix()


def _hash(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def _read_cache(entry: Entry) -> list[Page] | None:
    """Returns the pages of an entry of the cache, or None where there is none."""
    content = entry.read()
    return None if content is None else [Page(*fields) for fields in json.loads(content)]


def _write_cache(entry: Entry, pages: Iterable[Page]) -> None:
    """Writes the pages to the cache.

    A cache that cannot be written is no error: the pages are then made again each time.
    """
    with contextlib.suppress(OSError, InputError):
        entry.write(json.dumps([astuple(page) for page in pages]).encode())
