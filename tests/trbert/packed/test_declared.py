"""A family that a user declares, by the name of its Python code."""

import os
import pickle
import re
import subprocess
import sys

import pytest

from trbert import Family, register_family
from trbert.errors import InputError
from trbert.packed import declared
from trbert.packed.declared import declaration_of, declare
from trbert.packed.families import BUILT_IN, FAMILIES

OWN = "import trbert\n\nFAMILY = trbert.Family(model_type='own', layers='blocks')\n"
PLACE = "tests.trbert.packed.lvbert:FAMILY"


@pytest.fixture(autouse=True)
def forgotten(monkeypatch):
    """What a test registers is unknown after it, and it finds nothing registered."""
    for name in [name for name in sys.modules if name.startswith("trbert_family_")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(declared, "_DECLARED", {})
    monkeypatch.setattr(sys, "path", [*sys.path])
    before, modules = dict(FAMILIES), set(sys.modules)
    yield
    FAMILIES.clear()
    FAMILIES.update(before)
    for name in set(sys.modules) - modules:
        if name.startswith(("trbert_family_", "own_families")):
            del sys.modules[name]


def refused(message):
    return pytest.raises(InputError, match=f"^{re.escape(message)}$")


def test_a_file_is_read_once_and_its_family_known_by_its_model_type(tmp_path):
    file = tmp_path / "own.py"
    file.write_text(OWN)
    found = declare(f"{file}:FAMILY")
    assert FAMILIES["own"].layers == "blocks"
    file.write_text("raise SystemExit")
    assert declare(f"{file}:FAMILY") is found
    assert found.model_type == "own"


def test_a_module_in_the_working_directory_is_found(tmp_path, monkeypatch):
    (tmp_path / "own_families").mkdir()
    (tmp_path / "own_families" / "first.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    declare("own_families.first:FAMILY")
    assert "own" in FAMILIES


def test_a_file_of_the_working_directory_takes_the_place_of_no_installed_module(tmp_path, monkeypatch):
    (tmp_path / "pyarrow_hotfix_of_nobody.py").write_text("")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="has no 'FAMILY'"):
        declare("pyarrow_hotfix_of_nobody:FAMILY")
    assert sys.path[-1] == str(tmp_path)


def test_a_config_of_the_users_class_can_be_unpickled_in_a_new_process(tmp_path):
    file = tmp_path / "own.py"
    file.write_text(
        f"{OWN}\nimport transformers\n\nclass OwnConfig(transformers.BertConfig):\n    model_type = 'own'\n\n"
        "CONFIG = OwnConfig(hidden_size=12)\n"
    )
    declare(f"{file}:FAMILY")
    (module,) = (each for name, each in sys.modules.items() if name.startswith("trbert_family_"))
    config = module.CONFIG
    (tmp_path / "both").write_bytes(pickle.dumps([declaration_of(config), config]))
    code = (
        "import pickle, sys; found, config = pickle.load(open(sys.argv[1], 'rb'));"
        "from trbert.packed.families import family_of;"
        "print(found.model_type, config.hidden_size, family_of(config).layers)"
    )
    told = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "both")], capture_output=True, text=True, env=os.environ
    )
    assert told.stdout.strip() == "own 12 blocks", told.stderr


def test_a_family_of_trbert_has_no_declaration(config_of):
    assert declaration_of(config_of("bert")) is None


@pytest.mark.parametrize("name", ["FAMILY", ":FAMILY", "own.py:", ""])
def test_a_name_of_another_form_is_refused(name):
    with refused(
        "--family must be a module and a name in it, such as my_package.families:FAMILY or my_family.py:FAMILY, and is "
        f"{name!r}"
    ):
        declare(name)


def test_code_that_is_absent_or_fails_is_refused_with_its_error(tmp_path):
    with pytest.raises(
        InputError,
        match=r"^--family must name Python code that can be imported, and 'no_such.module' cannot be "
        r"\(ModuleNotFoundError: No module named 'no_such'\): correct it, install it, or start where it lies$",
    ):
        declare("no_such.module:FAMILY")
    with pytest.raises(InputError, match=r"gone\.py' cannot be \(FileNotFoundError: "):
        declare(f"{tmp_path}/gone.py:FAMILY")
    (tmp_path / "bad.py").write_text("1 / 0")
    with pytest.raises(InputError, match=r"bad\.py' cannot be \(ZeroDivisionError: division by zero\)"):
        declare(f"{tmp_path}/bad.py:FAMILY")
    assert not [name for name in sys.modules if name.startswith("trbert_family_")]


def test_a_name_that_is_absent_or_no_family_is_refused(tmp_path):
    file = tmp_path / "own.py"
    file.write_text(f"{OWN}OTHER = 3\n")
    with refused(
        f"--family must name a trbert.Family in '{file}', which has no 'FAMLY' (did you mean 'FAMILY'?): write its "
        "name there after the colon"
    ):
        declare(f"{file}:FAMLY")
    with refused(
        f"--family must name a trbert.Family, and '{file}:OTHER' is the int 3: write OTHER = "
        "trbert.Family(model_type=...) there"
    ):
        declare(f"{file}:OTHER")


def test_a_family_needs_a_model_type_that_trbert_does_not_describe():
    with refused(
        "model_type of a family must be the model_type in config.json of its models, and is None: write "
        "trbert.Family(model_type='...')"
    ):
        register_family(Family(layers="blocks"))
    with refused(
        "model_type of a family must be one that trbert does not describe itself, and is 'bert': leave the family out "
        "(--family)"
    ):
        register_family(Family(model_type="bert", layers="blocks"))
    with pytest.raises(InputError, match=r"^a family must be a trbert\.Family, and is the str 'own'"):
        register_family("own")
    assert set(FAMILIES) == BUILT_IN
