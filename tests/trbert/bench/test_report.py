"""How a speed report is shown: each figure in its own column, each variant on its own line of the picture."""

import json
from dataclasses import replace

import pytest

from trbert.bench.report import draw, table, write
from trbert.bench.speed import Report, Row
from trbert.measure.timing import Spread


def row(variant, dtype, batch, rate, peak=None):
    return Row(
        variant=variant,
        dtype=dtype,
        batch=batch,
        docs_per_second=rate,
        docs_per_second_from_text=rate - 3,
        p50_ms=1.25,
        p95_ms=2.5,
        over_plain=Spread(4.0, 3.5, 4.5),
        over_padded=Spread(3.0, 2.5, 3.25),
        over_unpadded=Spread(2.0, 1.5, 2.25),
        flops_over_padded=5.0,
        flops_over_unpadded=2.5,
        realised=0.8,
        peak_mib=peak,
    )


@pytest.fixture
def report():
    """Two variants in two arithmetics at two batch sizes, each as fast as its place in the list."""
    places = [(dtype, name, batch) for batch in (1, 8) for dtype in ("float32", "int8") for name in ("padded", "ours")]
    return Report(
        rows=tuple(
            row(name, dtype, batch, 10.0 * place, peak=7.6 if batch == 8 else None)
            for place, (dtype, name, batch) in enumerate(places, start=1)
        ),
        machine="a processor",
        threads=2,
        torch_version="2.9",
        documents=5,
        lengths=(1, 3, 8),
        rounds=4,
        tokenise_ms=0.5,
        pack_ms=0.0625,
    )


def test_each_figure_stands_in_its_column(report):
    about, _, header, _, *rows = table(report).splitlines()
    assert about == (
        "a processor, 2 threads, torch 2.9; 5 documents of 1 to 8 tokens (median 3), 4 rounds in turns; tokenising "
        "takes 0.50 ms a document, unpadding 0.062 ms."
    )
    names, cells = ([each.strip() for each in line.strip("|").split("|")] for line in (header, rows[3]))
    assert len(set(names)) == len(names)
    assert list(zip(names, cells, strict=True)) == [
        ("batch", "1"),
        ("dtype", "int8"),
        ("variant", "ours"),
        ("docs/s", "40"),
        ("with tokenising", "37"),
        ("p50 ms", "1.2"),
        ("p95 ms", "2.5"),
        ("speed-up over padded float32", "4.00x (3.50–4.50)"),
        ("speed-up over padded", "3.00x (2.50–3.25)"),
        ("speed-up over unpadded", "2.00x (1.50–2.25)"),
        ("FLOPs speed-up over padded", "5.00x"),
        ("FLOPs speed-up over unpadded", "2.50x"),
        ("realised", "0.80"),
        ("peak MiB", "–"),
    ]
    assert rows[-1].endswith("| 8 |")  # 7.6 MiB
    assert len(rows) == 8


def test_a_slow_model_has_a_throughput(report):
    slow = replace(report.rows[0], docs_per_second=0.1234, docs_per_second_from_text=12.345)
    cells = table(replace(report, rows=(slow, *report.rows[1:]))).splitlines()[4].split(" | ")
    assert cells[3:5] == ["0.123", "12.3"]


def test_the_files_hold_the_table_and_every_figure(report, tmp_path):
    write(report, tmp_path)
    assert (tmp_path / "speed.md").read_text() == table(report)
    saved = json.loads((tmp_path / "speed.json").read_text())
    assert [each["docs_per_second"] for each in saved["rows"]] == [10.0 * place for place in range(1, 9)]
    assert saved["rows"][0]["over_plain"] == {"median": 4.0, "low": 3.5, "high": 4.5}


def test_the_picture_has_a_panel_an_arithmetic_and_a_line_a_variant(report, tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    caught = []
    save = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *args, **options: caught.append(self) or save(self, *args, **options)
    )
    draw(report, tmp_path / "speed.png")
    (figure,) = caught
    drawn = {
        (axes.get_title(), line.get_label()): line.get_xydata().tolist() for axes in figure.axes for line in axes.lines
    }
    # Batches of 1 and 8 documents, and documents a second.
    assert drawn == {
        ("float32", "padded"): [[1.0, 10.0], [8.0, 50.0]],
        ("float32", "ours"): [[1.0, 20.0], [8.0, 60.0]],
        ("int8", "padded"): [[1.0, 30.0], [8.0, 70.0]],
        ("int8", "ours"): [[1.0, 40.0], [8.0, 80.0]],
    }
    assert [tick.get_text() for tick in figure.axes[0].get_xticklabels()] == ["1", "8"]
    colours = [[line.get_color() for line in axes.lines] for axes in figure.axes]
    assert colours[0] == colours[1]
    assert len(set(colours[0])) == 2
