"""README and pages say what holds: their Python runs, their commands are taken, their tables are the code's own."""

import dataclasses
import json
import re
import shlex
import tomllib
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import AutoConfig, BertConfig, PreTrainedTokenizerFast

from trbert.commands import cli
from trbert.encoder import Encoder
from trbert.modeling import assemble
from trbert.packed.families import FAMILIES
from trbert.runners import RUNNERS
from trbert.selection.policy import Policy
from trbert.selection.reduction import Reducer
from trbert.selection.selectors import SELECTORS, PolicySelector
from trbert.tasks import TASKS, Task
from trbert.tasks.rows import Table
from tune import pareto, search
from tune.processes.planner import Cluster
from tune.results.front import Point, mark_front
from tune.results.table import write_front
from tune.runs.folder import RunFolder, make_run
from tune.runs.record import SavedRun, write_run
from tune.settings import TR_BERT, Search, Settings, override, setting_names
from tune.space import search_space

ROOT = Path(__file__).resolve().parents[1]
PATHS = [*sorted(ROOT.glob("docs/*.md")), *sorted(ROOT.glob("docs/tasks/*.md"))]
PAGES = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in PATHS}
PAGES = {"README.md": (ROOT / "README.md").read_text(encoding="utf-8"), **PAGES}
TEXTS = PAGES | {name: (ROOT / name).read_text(encoding="utf-8") for name in ("CONTRIBUTING.md", "CHANGELOG.md")}
EVERYTHING = "\n".join(PAGES.values())
OF_PAGES = {f"docs/tasks/{name}.md": name for name in TASKS}
"""The task of each page that is about one task."""
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z-]*")


def tiny(name):
    """Returns the plain model and the reduced model of a task, both with a tiny BERT of random weights."""
    torch.manual_seed(0)
    task = TASKS[name]
    config = BertConfig(
        vocab_size=8,
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=32,
        num_labels=1 if name == "reranking" else 2,
    )
    if not task.has_head:
        config.pooling, config.normalised = "mean", True
    teacher = task.auto_class.from_config(config).eval()
    separator = None if task.protected_part is None else 3
    reducer = Reducer(encoder=Encoder(teacher), task=task, points=(0, 2), separator=separator)
    model = assemble(reducer, PolicySelector(Policy(dim=16, num_points=2)), dial=0.0, max_tokens=64)
    return teacher, model


@pytest.fixture
def run_folder(tmp_path, monkeypatch, request):
    """The folder in which the reader stands: a run with a tiny model and its teacher, and a picked model.

    The models are of the task that the page is about, which is named in `OF_PAGES`.
    """
    page = request.node.callspec.params.get("page") if hasattr(request.node, "callspec") else None
    teacher, model = tiny(OF_PAGES.get(page, "classification"))
    words = {word: index for index, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "tokens", "padding"])}
    fast = Tokenizer(WordLevel(words, unk_token="[UNK]"))
    fast.pre_tokenizer = Whitespace()
    fast.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=fast, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )
    for folder, saved in (("models/teacher", teacher), ("models/1", model), ("../../picked", model)):
        saved.save_pretrained(tmp_path / "runs" / "search" / folder)
        tokenizer.save_pretrained(tmp_path / "runs" / "search" / folder)
    monkeypatch.chdir(tmp_path)


def blocks(page):
    return re.findall(r"^```python\n(.*?)^```$", PAGES[page], re.MULTILINE | re.DOTALL)


def run_blocks(page):
    """Runs a page's Python one block after the other, and returns its names."""
    names = {"__name__": "page"}
    for number, block in enumerate(blocks(page), start=1):
        exec(compile(block, f"{page}, Python block {number}", "exec"), names)
    return names


def test_the_readmes_python_blocks_run_one_after_the_other(run_folder):
    names = run_blocks("README.md")
    assert names["logits"].shape == (2, 2)
    assert names["fast"].config.dial == -2.0
    assert names["loss"].isfinite()


@pytest.mark.parametrize("page", [page for page in PAGES if page != "README.md" and blocks(page)])
def test_the_python_blocks_of_a_page_run_without_any_other_page(page, run_folder, capsys):
    names = run_blocks(page)
    printed = capsys.readouterr().out
    said = re.findall(r"print\(.*\)  # (.+)", "".join(blocks(page)))
    assert printed.splitlines()[: len(said)] == said
    assert bool(printed) == ("print(" in "".join(blocks(page)))
    assert names.get("over", True)  # the environment's episode came to its end


HELP = {
    "search": (search, ["--help"], "docs/settings.md"),
    "pareto": (pareto, ["--help"], "docs/results.md"),
    "bench": (cli, ["bench", "--help"], "docs/cost.md"),
    "import-checkpoint": (cli, ["import-checkpoint", "--help"], "docs/own-data.md"),
}
"""For each command: what prints its help, and the page with the table of its options."""


def flags_of(name, capsys):
    command, words, _ = HELP[name]
    with pytest.raises(SystemExit, match="0"):
        command.main(words)
    return set(FLAG.findall(capsys.readouterr().out))


@pytest.mark.parametrize("page", PAGES)
def test_every_flag_named_is_one_that_exists(page, capsys):
    # Less those of Ray's and Amazon's own commands, up to where one of ours begins.
    ours = re.sub(
        r"`ray [^`]*`|^ +(?:RAY_\w+=\w+ )?(?:ray|aws) (?:.|\\\n)*?(?= -- \\|(?<!\\)$)",
        "",
        PAGES[page],
        flags=re.MULTILINE,
    )
    assert set(FLAG.findall(ours)) - set().union(*(flags_of(command, capsys) for command in HELP)) == set()


@pytest.mark.parametrize("command", HELP)
def test_every_flag_that_exists_is_in_its_pages_table(command, capsys):
    page = HELP[command][2]
    cells = re.findall(r"^\| (`--.*?`) \|", PAGES[page], re.MULTILINE)
    assert flags_of(command, capsys) - {"--help", "--version"} - set(FLAG.findall(" ".join(cells))) == set()


def commands(script, pages=tuple(PAGES)):
    """Returns the arguments of every command in an indented block of the pages, each once."""
    found = {}
    for text in map(PAGES.get, pages):
        shown = text.replace("\\\n", " ")
        for line in re.findall(rf"^ {{4,8}}(?:.* -- +)?{script} (.*?)(?:  #.*)?$", shown, re.MULTILINE):
            found[" ".join(shlex.split(line))] = shlex.split(line)
    assert found
    return list(found.values())


@pytest.mark.parametrize("words", commands("python tune/search.py"), ids=" ".join)
def test_a_search_command_is_taken(words, tmp_path, monkeypatch, capsys):
    machines = ({"CPU": 8.0, "GPU": 1.0},) * 4  # of cluster.yaml
    monkeypatch.setattr("tune.processes.planner.cluster_of", lambda address: Cluster(machines=machines, started=4))
    # The reader's files, clusters and buckets are not here.
    monkeypatch.setattr(search, "run_checks", lambda *words: [])
    monkeypatch.setattr("tune.driver.inspect_inputs", lambda *words, **options: None)
    monkeypatch.chdir(tmp_path)
    run = RunFolder(Path("runs/search"))
    make_run(run)
    write_run(run, SavedRun(id="mine-1", settings=Settings(), search=Search()))
    assert search.main([*words, "--dry-run"]) == 0, capsys.readouterr().err


@pytest.mark.parametrize("page", ["README.md", "docs/clusters.md"])
def test_a_search_command_for_a_cluster_is_among_them(page):
    assert any({"--address", "--storage"} <= set(words) for words in commands("python tune/search.py", (page,)))


@pytest.mark.parametrize("words", commands("python tune/pareto.py"), ids=" ".join)
def test_a_picking_command_is_taken(words, run_folder, capsys):
    given = {"trial": "1", "selector": "policy", "points": (0, 2), "model": "models/1"}
    points = [
        Point(
            trial="teacher", selector="none", quality_validation=0.9, speed_up_validation=1.0, model="models/teacher"
        ),
        Point(
            **given, dial=-0.5, quality_validation=0.898, quality_test=0.89, speed_up_validation=4.0, kept=(0.3, 0.1)
        ),
    ]
    write_front(Path("runs/search/front.csv"), mark_front(points))
    words = [f"new/{word}" if before == "--out" else word for before, word in zip(["", *words], words, strict=False)]
    assert pareto.main(words) == 0, capsys.readouterr().err


@pytest.mark.parametrize("words", commands("trbert"), ids=" ".join)
def test_a_command_of_trbert_is_taken(words, monkeypatch, capsys):
    taken = []
    monkeypatch.setattr(cli.COMMANDS[words[0]], "run", taken.append)
    assert cli.main(words) == 0, capsys.readouterr().err
    assert taken


def shown_default(name):
    value = Settings()
    for part in name.split("."):
        value = getattr(value, part)
    return shown(value)


def shown(value):
    if isinstance(value, tuple):
        return ",".join(map(str, value)) or "(empty)"  # as --set takes it
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


def test_the_settings_tables_are_the_codes_own():
    rows = re.findall(r"^\| `[a-z_.]+` \| \S+ \| .+ \|$", PAGES["docs/settings.md"], re.MULTILINE)
    assert rows == [
        f"| `{name}` | {shown_default(name)} | {field.metadata['help']} |" for name, field in setting_names().items()
    ]


def test_the_papers_recipe_is_the_codes_own():
    recipe = PAGES["docs/settings.md"].partition("## The paper's recipe")[2]
    assert re.findall(r"^\| `([a-z_.]+)` \| (\S+) \|$", recipe, re.MULTILINE) == [
        (name, shown(value)) for name, value in TR_BERT.items()
    ]


def test_what_the_search_varies_is_the_codes_own():
    paragraph = re.search(r"varies these settings by itself: (.*?)\.\s", PAGES["docs/settings.md"], re.DOTALL)[1]
    assert re.findall(r"`([\w.]+)`", paragraph) == list(search_space(6, 1.0))


def test_the_packaged_pages_are_read_as_the_page_says():
    assert "128 tokens of each page and 4,000 training pages" in PAGES["docs/settings.md"].replace("\n", " ")
    assert override(Settings(), search.PAGES_SIZE).data.max_length == 128
    assert override(Settings(), search.PAGES_SIZE).data.train_rows == 4000


@pytest.mark.parametrize("page", TEXTS.keys() - {"CHANGELOG.md"})  # which tells of what is gone too
def test_every_setting_named_exists(page):
    groups = "|".join(field.name for field in dataclasses.fields(Settings) if dataclasses.is_dataclass(field.type))
    named = set(re.findall(rf"(?:`|--set )((?:{groups})\.\w+)", TEXTS[page]))
    assert {name for name in named if not name.endswith((".py", ".md"))} - set(setting_names()) == set()


def first_cells(page, heading):
    """Returns what stands in backticks in the first column of the table below a heading."""
    section = re.split(r"^#+ ", PAGES[page].partition(f"# {heading}\n")[2], flags=re.MULTILINE)[0]
    return [
        name for cell in re.findall(r"^\| (`.*?) \|", section, re.MULTILINE) for name in re.findall(r"`(.*?)`", cell)
    ]


def test_the_columns_of_the_front_are_the_codes_own():
    assert first_cells("docs/results.md", "The front") == [field.name for field in dataclasses.fields(Point)]


def test_the_folder_of_a_run_is_the_codes_own():
    run = RunFolder(Path())
    files = (run.settings, run.front_table, run.baselines, run.front_picture, run.study, run.lock)
    names = {*(file.name for file in files), f"{run.trials.name}/"}
    named = set(first_cells("docs/results.md", "The folder of a run"))
    assert named == names | {f"{run.models.name}/K/", f"{run.models.name}/teacher/"}


def test_the_selectors_are_the_codes_own():
    assert set(first_cells("docs/settings.md", "Selectors")) == set(SELECTORS)


@pytest.mark.parametrize("page", ["docs/cost.md", "docs/architecture.md"])
def test_the_runners_are_the_codes_own(page):
    rows = re.findall(r"^\| `(\w+)` \|", PAGES[page].partition("## Runners")[2].partition("\n## ")[0], re.MULTILINE)
    assert rows == list(RUNNERS)


def test_the_families_are_the_codes_own():
    paragraph = re.search(r"By `model_type`: (.*?)\.", PAGES["docs/families.md"], re.DOTALL)[1]
    assert re.findall(r"`([\w-]+)`", paragraph) == list(FAMILIES)


def test_the_fields_of_a_family_are_the_codes_own():
    cells = re.findall(r"^\| (`.*?) \|", PAGES["docs/families.md"], re.MULTILINE)
    named = {name for cell in cells for name in re.findall(r"`(\w+)`", cell)}
    assert named == {field.name for field in dataclasses.fields(FAMILIES["bert"])}


def test_the_laws_are_the_same_in_both_places():
    listed = re.findall(r"^(\d)\. (.*(?:\n   .*)*)", TEXTS["CONTRIBUTING.md"], re.MULTILINE)
    table = re.findall(r"^\| (\d) \| (.*?) \| `tests/", PAGES["docs/architecture.md"], re.MULTILINE)
    assert [(number, " ".join(law.replace("**", "").split())) for number, law in listed] == table
    assert len(table) == 7


def sections(text):
    """Returns the anchors of a page's headings, as GitHub makes them."""
    outside = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.+)$", outside, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", TEXTS)
def test_what_it_links_to_is_there(page):
    missing = []
    for link in re.findall(r"\]\(([^)\s:]+)\)", TEXTS[page]):
        path, _, anchor = link.partition("#")
        target = (ROOT / page).parent / path if path else ROOT / page
        if not target.exists() or (anchor and anchor not in sections(target.read_text(encoding="utf-8"))):
            missing.append(link)
    assert missing == []


def test_every_page_is_reached_from_the_readme():
    reached = PAGES["README.md"] + PAGES["docs/tasks.md"].replace("](tasks/", "](docs/tasks/")
    assert [page for page in PAGES if page != "README.md" and f"]({page}" not in reached] == []


def test_the_table_of_tasks_is_the_codes_own():
    rows = re.findall(r"^\| \[`(\w+)`\]\(\S+\) \| .+ \| (.+) \| .+ \| .+ \|$", PAGES["docs/tasks.md"], re.MULTILINE)
    own = {name: [*task.text_column.split(","), task.label_column] for name, task in TASKS.items()}
    assert {name: re.findall(r"`(\w+)`", columns) for name, columns in rows} == {
        name: [column for column in columns if column] for name, columns in own.items()
    }


def test_the_interface_of_a_task_is_told_whole():
    section = PAGES["docs/architecture.md"].partition("| a task says |")[2].partition("\n\n")[0]
    cells = re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
    named = [name for cell in cells for name in re.findall(r"`(\w+)`", cell)]
    own = {*vars(Task), *Task.__annotations__}
    assert sorted(named) == sorted(name for name in own if not name.startswith("_"))


def example_rows(text):
    """Returns the rows that a page shows as examples."""
    return [json.loads(line) for line in re.findall(r'^    (\{"\w+": .*\})$', text, re.MULTILINE)]


def table_of(rows):
    return Table("train.jsonl", {name: [row[name] for row in rows] for name in rows[0]})


@pytest.mark.parametrize("page", sorted(OF_PAGES.keys() & PAGES.keys()))
def test_the_example_rows_of_a_task_are_read(page):
    task = TASKS[OF_PAGES[page]]
    assert len(task.read({"train": table_of(example_rows(PAGES[page]))}, task.columns()).rows["train"]) == 1


@pytest.mark.parametrize(
    ("heading", "name"), [("One label", "classification"), ("Several labels", "multi_label"), ("Numbers", "regression")]
)
def test_the_example_rows_of_labels_tell_their_task(heading, name):
    section = PAGES["docs/tasks/labels.md"].partition(f"## {heading}\n")[2].partition("\n## ")[0]
    table = table_of(example_rows(section))
    assert [task.name for task in TASKS.values() if _has_columns(task, table) and task.sign(table, task.columns())] == [
        name
    ]


def _has_columns(task, table):
    columns = task.columns()
    return {*columns.inputs, columns.target} <= set(table.values)


def test_the_heads_that_transformers_lacks_are_those_that_the_page_names():
    paragraph = PAGES["docs/families.md"].partition("For now, ")[2].partition(".")[0]
    lacking = {
        (family, task.name)
        for family in FAMILIES
        for task in TASKS.values()
        if type(AutoConfig.for_model(family)) not in task.auto_class._model_mapping
    }
    assert set(re.findall(r"`(\w+)`", paragraph)) == {name for pair in lacking for name in pair}
    assert len(lacking) == 4  # each of the two families lacks both heads


def test_the_protected_parts_are_the_codes_own():
    section = PAGES["docs/tasks.md"].partition("## What is never dropped")[2].partition("\n## ")[0]
    named = re.findall(r"`(\w+)`", " ".join(re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)))
    assert named == [name for name, task in TASKS.items() if task.protected_part is not None]


def test_the_readme_is_short():
    assert len(PAGES["README.md"].splitlines()) < 200


@pytest.mark.parametrize("page", TEXTS)
def test_a_page_is_read_without_papers_that_the_repository_does_not_hold(page):
    assert re.findall(r"\b[A-Z]+\.md\b", TEXTS[page]) == [
        name for name in re.findall(r"\b[A-Z]+\.md\b", TEXTS[page]) if list(ROOT.glob(name))
    ]


FIGURES = [
    (page, names.split(), block)
    for page, text in PAGES.items()
    for names, block in re.findall(r"<!-- results:(.*?) -->\n(.*?)<!-- /results -->", text, re.DOTALL)
]


@pytest.mark.parametrize(("page", "names", "block"), FIGURES, ids=[f"{page}-{names}" for page, names, _ in FIGURES])
def test_a_figure_stands_in_the_results_first(page, names, block):
    held = " ".join((ROOT / "docs/results" / name).read_text(encoding="utf-8") for name in names)
    cells = block.replace("|", " ").split()
    figures = [cell.strip(",%") for cell in cells if re.fullmatch(r"[-+]?\d+\.\d+[x%]?,?", cell)]
    assert len(figures) > 1
    assert [each for each in figures if not re.search(rf"(?<![\d.]){re.escape(each.rstrip('x'))}(?![\d])", held)] == []


def test_the_times_on_a_gpu_are_those_of_the_reports():
    table = re.findall(r"^\| (\S+) \| (\d+) \| (\S+) \| (\S+) \| (\S+) \|$", PAGES["docs/cost.md"], re.MULTILINE)
    assert len(table) == 6
    reports = "".join(path.read_text(encoding="utf-8") for path in ROOT.glob("docs/results/h200/*/inference.md"))
    for model, batch, *times, flops in table:
        for dtype, time in zip(("float32", "bfloat16"), times, strict=True):
            (row,) = re.findall(rf"^\| {model} \| 512 \| {batch} \| {dtype} \| reduced, ± .*$", reports, re.MULTILINE)
            cells = row.split(" | ")
            assert (cells[7].split()[0], cells[9]) == (time, flops)


TREE, LAYERS = re.findall(r"^```\n(.*?)^```$", PAGES["docs/architecture.md"], re.MULTILINE | re.DOTALL)


def paths_of(tree):
    """Returns the paths that a drawn tree names: what is indented lies in the folder above it."""
    folders, found = {}, []
    for indent, name in re.findall(r"^( *)([a-z_]+(?:/|\.py))  *\S", tree, re.MULTILINE):
        depth = len(indent) // 2
        folders[depth] = folders[depth - 1] + name if depth else name
        found.append(folders[depth])
    return found


def test_the_architecture_page_names_only_what_exists():
    named = re.findall(r"`((?:[\w.-]+/)+[\w.-]*|[\w-]+\.(?:py|md|toml))`", PAGES["docs/architecture.md"])
    named = {*paths_of(TREE), *named}
    assert len(named) > 30
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []


def test_the_drawn_tree_has_every_folder_and_every_module_of_trbert():
    packages = {"tune", "envs", "trbert"}
    inits = [init.parent for package in packages for init in (ROOT / package).rglob("__init__.py")]
    folders = {f"{folder.relative_to(ROOT).as_posix()}/" for folder in inits}
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "trbert").glob("*.py")} - {"trbert/__init__.py"}
    assert (folders | modules) - set(paths_of(TREE)) == set()


def test_the_drawn_layers_are_those_that_import_linter_holds():
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (layers,) = [each["layers"] for each in contracts if each.get("containers") == ["trbert"]]
    assert LAYERS.splitlines() == layers


def test_four_files_are_to_be_read_first():
    section = PAGES["docs/architecture.md"].partition("## Four files to read first")[2].partition("\n## ")[0]
    assert len(re.findall(r"^\| \[", section, re.MULTILINE)) == 4
