"""The command that shows the front of a finished search, and picks a model from it.

python tune/pareto.py runs/default --max-drop 0.5 --out picked
"""

import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from trbert import __version__
from trbert.console import Parser, disk_full, exit_code
from trbert.disk.checksums import SUMS, check_checksums, write_checksums
from trbert.disk.files import copy_tree, files_below, free_bytes, sync_folder, why_not_writable, write_json
from trbert.errors import DamagedCheckpoint, InputError, RunFolderError, TrbertError
from trbert.wording import printable, python_text, reason
from tune.learning.standing import remarks
from tune.results.check import check_run
from tune.results.front import Point, at_dial, is_saved, is_trained, pick
from tune.results.measures import in_words, read_measures
from tune.results.models import model_folder, read_config
from tune.results.standing_file import read_standing
from tune.results.table import read_front, table
from tune.runs.folder import RunFolder


def export(run: Path, point: Point, out: Path) -> None:
    """Copies a point's model to a new folder; the copy loads with the point's dial.

    The folder appears complete or not at all. It gets checksums of its own, because the dial is in one of its files.
    Its files have the modes of new ones.

    Args:
        run: the run folder; the point's `model` is relative to it.
        point: the point that was picked.
        out: the new folder; an existing one must be empty.

    Raises:
        InputError: The point has no trained model.
        RunFolderError: `out` is not empty, cannot be written, lies inside the model's folder, or behind a symbolic link
            in the run. Or the model's folder holds something else than files and folders.
        DamagedCheckpoint: The model's folder or its config.json is missing or damaged, or differs from its checksums.

    Example:
        >>> import json
        >>> run = Path(tempfile.mkdtemp())
        >>> (run / "models" / "3").mkdir(parents=True)
        >>> _ = (run / "models" / "3" / "config.json").write_text('{"dial": 0.0}')
        >>> measured = {"quality_validation": 0.8, "speed_up_validation": 4.0}
        >>> picked = Point(trial="3", selector="policy", dial=-1.5, model="models/3", **measured)
        >>> export(run, picked, run / "picked")
        >>> json.loads((run / "picked" / "config.json").read_text())
        {'dial': -1.5}
    """
    if not (is_trained(point) and is_saved(point)):
        raise InputError(
            f"a point must be a trained model to be exported, and is {point.selector!r} of {point.trial!r}"
        )
    source = model_folder(run, point.model)
    config = read_config(source)
    if (source / SUMS).exists():
        check_checksums(source)
    try:
        _check_place(run, source, out)
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name[:100]}.") as made:
            copy = Path(made) / "copy"
            copy_tree(source, copy)
            if point.dial is not None:
                write_json(copy / "config.json", {**config, "dial": float(point.dial)})
            write_checksums(copy)
            os.replace(copy, out)
        sync_folder(out.parent)
    except TrbertError:
        raise
    except RecursionError as error:
        raise DamagedCheckpoint(
            f"{source}/config.json is nested too deeply to be written again: search again, or copy it back"
        ) from error
    except OSError as error:
        if disk_full(error) is not None:
            raise
        raise RunFolderError(
            f"{source} cannot be copied to {out} ({reason(error)}): check that you may read the one and write the other"
        ) from error


def _check_place(run: Path, source: Path, out: Path) -> None:
    if os.path.lexists(out) and (out.is_symlink() or not out.is_dir() or any(out.iterdir())):
        raise RunFolderError(f"{out} exists already: pass --out with a new or empty folder, or remove it")
    if source.resolve() in (out.resolve(), *out.resolve().parents):
        raise RunFolderError(f"{out} lies inside the model's own folder {source}: pass --out with a folder elsewhere")
    whole = Path(os.path.abspath(out))
    for each in whole.parents:
        if each.is_symlink() and run.resolve() in (each.parent.resolve(), *each.parent.resolve().parents):
            raise RunFolderError(
                f"{out} must not lie behind a symbolic link in the run, and {each} is one: pass --out with a folder "
                "elsewhere"
            )
    if (why := why_not_writable(out)) is not None:
        raise RunFolderError(f"{out} cannot be written ({why}): pass --out with a folder that you may write to")
    needed = sum((source / name).lstat().st_size for name in files_below(source))
    if needed > (free := free_bytes(out)):
        raise RunFolderError(
            f"{out} needs {needed:,} bytes for a copy of {source}, and its disk has {free:,}: pass --out on another one"
        )


def describe(run: Path, point: Point, exported: Path | None = None) -> str:
    """Returns the text about a picked model: its folder, its quality and speed, and the line of Python that loads it.

    Where the run kept them, intervals and further measures on test stand between.

    Raises:
        InputError: The file of these measures is damaged.

    Example:
        >>> measured = {"quality_validation": 0.9, "speed_up_validation": 4.0}
        >>> fast = Point(trial="1", selector="policy", dial=-0.5, model="models/1", **measured)
        >>> print(describe(Path("runs/default"), fast))
        picked  runs/default/models/1 at dial -0.5: 90.0% and 4.00x in FLOPs on validation
        load    trbert.load("runs/default/models/1", dial=-0.5)
    """
    folder = run / point.model
    facts = [f"{point.quality_validation:.1%} and {point.speed_up_validation:.2f}x in FLOPs on validation"]
    if point.quality_test is not None:
        drop = "" if point.drop is None else f" (drop {point.drop:z.1f} points)"
        facts.insert(0, f"{point.quality_test:.1%}{drop} and {point.speed_up:.2f}x in FLOPs on test")
    if point.docs_per_second is not None:
        facts.append(f"{point.docs_per_second:.0f} docs/s")
    lines = [f"picked  {printable(str(folder))}{at_dial(point)}: {', '.join(facts)}"]
    if (measures := read_measures(folder, point.dial)) is not None:
        lines.append(f"test    {in_words(measures)}")
    if exported is not None:
        lines.append(f"copied  to {printable(str(exported))}")
    where = python_text((exported or folder).as_posix())
    load = f"trbert.load({where})" if exported else f"trbert.load({where}, dial={point.dial!r})"
    return "\n".join([*lines, f"load    {load}"])


def _command(arguments: Sequence[str]) -> None:
    parser = Parser("tune/pareto.py", description="Show a finished search's front; pick a model.", allow_abbrev=False)
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder that tune/search.py wrote")
    parser.add_argument("--max-drop", type=float, metavar="POINTS", help="pick: most points of quality to lose")
    parser.add_argument("--min-speedup", type=float, metavar="TIMES", help="pick: least speed-up in FLOPs")
    parser.add_argument("--out", type=Path, metavar="DIR", help="copy the picked model to this new folder")
    parser.add_argument("--check", action="store_true", help="verify every file and every model of the run")
    parser.add_argument("--all", action="store_true", help="show the points off the front too")
    parser.add_argument("--verbose", action="store_true", help="show the traceback of an error")
    parser.add_version(__version__)
    chosen = parser.parse_args(arguments)
    picking = chosen.max_drop is not None or chosen.min_speedup is not None
    if chosen.out is not None and not picking:
        raise InputError("--out needs a pick: add --max-drop, --min-speedup, or both")
    folder = RunFolder(chosen.run)
    if chosen.check:
        if picking or chosen.all:
            raise InputError(
                "--check verifies the whole run, and goes with no other option but --verbose: leave it out"
            )
        check_run(folder, print)
        return
    points, standing = read_front(folder.front_table), read_standing(folder.baselines)
    print(table(points, every=chosen.all, standing=standing))
    if picking:
        point = pick(points, chosen.max_drop, chosen.min_speedup)
        model_folder(chosen.run, point.model)
        if chosen.out is not None:
            export(chosen.run, point, chosen.out)
        print(f"\n{describe(chosen.run, point, chosen.out)}")
        if standing is not None and standing.knows_nothing:
            print(f"beware  {remarks(standing)[0]}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line, and returns its exit code."""
    words = sys.argv[1:] if arguments is None else arguments
    return exit_code(lambda: _command(words), verbose="--verbose" in words)


if __name__ == "__main__":
    sys.exit(main())
