"""Documentation pages: what is read, what is masked, how they are split and cached."""

import re
import warnings
from collections import Counter
from pathlib import Path

import pytest

from trbert.data import pages
from trbert.data.pages import build_pages, documentation_pages, mask_names


def words(number: int, seed: int) -> str:
    """Returns that many different words, the same for the same seed."""
    return " ".join(f"w{seed}x{index}" for index in range(number))


def write_library(root: Path, folders: int = 10, files: int = 2) -> Path:
    """Writes a library of one page a file."""
    for folder in range(folders):
        (root / f"part{folder}").mkdir(parents=True)
        for file in range(files):
            docstring = words(120, 10_000 * len(root.name) + 100 * folder + file)
            (root / f"part{folder}" / f"m{file}.py").write_text(f'def f():\n    """{docstring}"""\n')
    return root


@pytest.fixture
def two_libraries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[Path, str]]:
    found = {name: (write_library(tmp_path / name, files=pages.MIN_PAGES // 10), "1.0") for name in ("one", "three")}
    monkeypatch.setattr(pages, "_installed", lambda: found)
    monkeypatch.setenv("TRBERT_CACHE", str(tmp_path / "cache"))
    return found


@pytest.mark.parametrize(
    ("docstring", "masked"),
    [
        ("Use torch.nn.functional.pad here", "Use library pad here"),
        ("import numpy as np\nnp.zeros(3)", "import library as library library zeros(3)"),
        ("See :class:`~transformers.BertModel`.", "See library BertModel ."),
        ("A PyTorch tensor, a TorchTrainer, a NetworkXError", "A library tensor, a library , a library"),
        ("__torch_function__ and HfApi and 🤗 Datasets", "library and library and library library"),
        ("ray.init an array, a RayActor in a tray", "library init an array, a library in a tray"),
        (":meth:`_orm.Session.add` of SQLAlchemy", "Session.add of library"),
        ("A dataset of pythonic transformers", "A dataset of library library"),
    ],
)
def test_names_of_libraries_are_masked(docstring: str, masked: str) -> None:
    assert mask_names(docstring) == masked


@pytest.mark.parametrize(
    ("docstring", "plain"),
    [
        ("Adds.\n\nParameters\n----------\nx : int\n", "Adds. x : int"),
        ("Adds.\n\nArgs:\n    x (`int`): a *number*\n", "Adds. x ( int ): a number"),
        ("Adds.\n\n:param x: a number\n.. versionadded:: 1.2\n.. note:: well", "Adds. x a number well"),
        (">>> f(1)\n... g(2)\nhttps://example.org/page <Tip>be</Tip>", "f(1) g(2) be"),
    ],
)
def test_markup_of_each_style_guide_is_removed(docstring: str, plain: str) -> None:
    assert mask_names(docstring) == plain


def test_long_docstrings_of_modules_classes_and_functions_are_pages(tmp_path: Path) -> None:
    source = f'''"""{words(120, 1)}"""
if True:
    class C:
        """{words(120, 2)}"""
        async def f(self):
            """{words(120, 3)}"""
        def g(self):
            """Short."""
            return """{words(120, 4)}"""
'''
    (tmp_path / "m.py").write_text(source)
    found = build_pages({"lib": tmp_path}, min_pages=1)
    assert [page.text for page in found] == [words(120, seed) for seed in (1, 2, 3)]
    assert {page.library for page in found} == {"lib"}


def test_tests_vendored_copies_and_files_that_do_not_parse_are_left_out(tmp_path: Path) -> None:
    names = ["tests/a.py", "test_a.py", "a_test.py", "_vendor/a.py", "vendored/a.py"]
    names += ["third_party/a.py", "thirdparty_files/a.py"]
    for seed, name in enumerate([*names, "kept/a.py"]):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f'"""{words(120, seed)}"""')
    (tmp_path / "broken.py").write_text(f'"""{words(120, 50)}"""\nprint "old"')
    assert [page.text for page in build_pages({"lib": tmp_path}, min_pages=1)] == [words(120, len(names))]


def test_pages_that_differ_in_case_and_punctuation_only_are_one(tmp_path: Path) -> None:
    for name, text in (("a", words(120, 1)), ("b", words(120, 1).upper().replace(" ", ", ")), ("c", words(120, 2))):
        (tmp_path / f"{name}.py").write_text(f'"""{text}"""')
    assert len(build_pages({"lib": tmp_path}, min_pages=1)) == 2


def test_a_library_of_few_pages_is_left_out_and_one_of_many_is_cut(tmp_path: Path) -> None:
    small = write_library(tmp_path / "small", folders=2)
    large = write_library(tmp_path / "larger", folders=10)
    found = build_pages({"small": small, "larger": large}, min_pages=5, max_pages=12)
    assert Counter(page.library for page in found) == {"larger": 12}


def test_a_folder_is_in_one_split_and_every_split_has_its_share(tmp_path: Path) -> None:
    found = build_pages({"lib": write_library(tmp_path / "lib", folders=20, files=5)}, min_pages=1)
    assert Counter(page.split for page in found) == {"train": 80, "validation": 10, "test": 10}
    folders = {(int(page.text[1:].partition("x")[0]) // 100, page.split) for page in found}
    assert len(folders) == 20


def test_folders_of_unlike_sizes_leave_every_split_its_share(tmp_path: Path) -> None:
    sizes = [9] * 8 + [1] * 28
    for folder, size in enumerate(sizes):
        (tmp_path / f"part{folder}").mkdir()
        for file in range(size):
            (tmp_path / f"part{folder}" / f"m{file}.py").write_text(f'"""{words(120, 100 * folder + file)}"""')
    found = build_pages({"lib": tmp_path}, min_pages=1)
    assert Counter(page.split for page in found) == {"train": 80, "validation": 10, "test": 10}


def test_sources_that_python_would_warn_of_are_read(tmp_path: Path) -> None:
    (tmp_path / "m.py").write_text(f'"""{words(120, 1)}"""\npattern = "\\d"\n')
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(build_pages({"lib": tmp_path}, min_pages=1)) == 1


def test_a_folder_that_holds_much_of_a_library_is_divided_by_file(tmp_path: Path) -> None:
    found = build_pages({"lib": write_library(tmp_path / "lib", folders=1, files=10)}, min_pages=1)
    assert Counter(page.split for page in found) == {"train": 8, "validation": 1, "test": 1}


@pytest.mark.parametrize(("size", "divided"), [(10, False), (15, True)])
def test_only_a_folder_of_more_than_a_tenth_of_the_pages_is_divided(size: int, divided: bool) -> None:
    large = [Path(f"large/m{file}.py") for file in range(size)]
    split_of = pages._split_by_module([*large, *(Path(f"part{folder}/m.py") for folder in range(100 - size))])
    assert (len({split_of[file] for file in large}) > 1) == divided
    assert Counter(split_of.values()) == {"train": 80, "validation": 10, "test": 10}


def test_a_docstring_is_cut_after_6000_characters(tmp_path: Path) -> None:
    (tmp_path / "m.py").write_text(f'"""{"a" * 5999} b c"""\nlimit = 1\n')
    (page,) = build_pages({"lib": tmp_path}, min_pages=1)
    assert page.text == "a" * 5999
    (tmp_path / "m.py").write_text(f'"""{"a" * 5998} bc"""\nlimit = 1\n')
    (page,) = build_pages({"lib": tmp_path}, min_pages=1)
    assert page.text == "a" * 5998 + " b"


def test_folders_are_read_in_the_order_of_a_hash(tmp_path: Path) -> None:
    for seed, folder in enumerate(("a", "b")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "m.py").write_text(f'"""{words(120, seed)}"""')
    # The SHA-256 of "a" begins with ca97, that of "b" with 3e23.
    assert [page.text for page in build_pages({"lib": tmp_path}, min_pages=1)] == [words(120, 1), words(120, 0)]


def test_functions_that_are_defined_where_an_import_fails_are_pages(tmp_path: Path) -> None:
    source = f'''try:
    def f():
        """{words(120, 1)}"""
except ImportError:
    def f():
        """{words(120, 2)}"""
'''
    (tmp_path / "m.py").write_text(source)
    assert [page.text for page in build_pages({"lib": tmp_path}, min_pages=1)] == [words(120, 1), words(120, 2)]


def test_the_cache_is_read_and_a_damaged_one_is_rebuilt(
    tmp_path: Path, two_libraries: dict[str, tuple[Path, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    built = documentation_pages()
    (cache,) = (tmp_path / "cache" / "pages").iterdir()
    sound = cache.read_bytes()
    assert {page.library for page in built} == {"one", "three"}

    for damaged in (sound[:-100], sound.replace(b"w3", b"w4"), b"", b"\xff"):
        cache.write_bytes(damaged)
        assert documentation_pages() == built
        assert cache.read_bytes() == sound

    monkeypatch.setattr(pages, "build_pages", lambda *_: pytest.fail("built again"))
    assert documentation_pages() == built


def test_another_version_has_a_cache_of_its_own(
    tmp_path: Path, two_libraries: dict[str, tuple[Path, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    documentation_pages()
    two_libraries["one"] = (two_libraries["one"][0], "1.1")
    documentation_pages()
    monkeypatch.setattr(pages, "FORMAT", pages.FORMAT + 1)
    documentation_pages()
    assert len(list((tmp_path / "cache" / "pages").iterdir())) == 3


def test_a_cache_folder_that_cannot_be_written_costs_time_only(
    tmp_path: Path, two_libraries: dict[str, tuple[Path, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("TRBERT_CACHE", str(tmp_path / "file" / "cache"))
    assert len(documentation_pages()) == 2 * pages.MIN_PAGES


def test_real_libraries_give_masked_pages_without_a_sound(capfd: pytest.CaptureFixture[str]) -> None:
    roots = {name: root for name, (root, _) in pages._installed().items() if name in ("python", "optuna", "gymnasium")}
    found = build_pages(roots, max_pages=150)
    assert {page.library for page in found} >= {"python"}
    assert {page.split for page in found} == {"train", "validation", "test"}
    name = re.compile(r"torch|numpy|optuna|gymnasium|python|\bray\b|\bnp\.", re.IGNORECASE)
    assert [page.text for page in found if name.search(page.text)] == []
    assert all(600 < len(page.text) <= 8000 for page in found)
    assert build_pages(roots, max_pages=150) == found
    assert capfd.readouterr() == ("", "")
