"""Shows a speed report: as a table, as JSON, and as a picture."""

import io
import json
from dataclasses import asdict
from pathlib import Path

from trbert.bench.speed import Report
from trbert.disk.files import write_whole

_COLOURS = ("#9a9a9a", "#333333", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")


def table(report: Report) -> str:
    """Returns the report as Markdown."""
    shortest, middle, longest = report.lengths
    plain = report.rows[0].dtype
    lines = [
        f"{report.machine}, {report.threads} threads, torch {report.torch_version}; {report.documents} documents of "
        f"{shortest} to {longest} tokens (median {middle}), {report.rounds} rounds in turns; tokenising takes "
        f"{report.tokenise_ms:.2f} ms a document, unpadding {report.pack_ms:.3f} ms.",
        "",
        f"| batch | dtype | variant | docs/s | with tokenising | p50 ms | p95 ms | speed-up over padded {plain} | "
        "speed-up over padded | speed-up over unpadded | FLOPs speed-up over padded | "
        "FLOPs speed-up over unpadded | realised | peak MiB |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in report.rows:
        peak = "–" if row.peak_mib is None else f"{row.peak_mib:.0f}"
        cells = [
            str(row.batch),
            row.dtype,
            row.variant,
            _rate(row.docs_per_second),
            _rate(row.docs_per_second_from_text),
            f"{row.p50_ms:.1f}",
            f"{row.p95_ms:.1f}",
            row.over_plain.as_ratio(),
            row.over_padded.as_ratio(),
            row.over_unpadded.as_ratio(),
            f"{row.flops_over_padded:.2f}x",
            f"{row.flops_over_unpadded:.2f}x",
            f"{row.realised:.2f}",
            peak,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def _rate(value: float) -> str:
    """Returns a throughput with three digits, or with all of its whole number.

    Example:
        >>> _rate(0.1234), _rate(12.34), _rate(1234.5)
        ('0.123', '12.3', '1234')
    """
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def write(report: Report, folder: Path) -> None:
    """Writes `speed.json` and `speed.md`."""
    write_whole(folder / "speed.json", json.dumps(asdict(report), indent=1).encode())
    write_whole(folder / "speed.md", table(report).encode())


def draw(report: Report, path: Path) -> None:
    """Writes the picture: throughput by batch size, with a panel for each arithmetic and a line for each variant.

    Raises:
        ImportError: matplotlib is not installed. It is needed for the picture only.
    """
    # pyplot is not used, because it keeps global state.
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    dtypes = list(dict.fromkeys(row.dtype for row in report.rows))
    names = list(dict.fromkeys(row.variant for row in report.rows))
    batches = sorted({row.batch for row in report.rows})
    figure = Figure(figsize=(1 + 4 * len(dtypes), 5), dpi=100, layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1))
    panels = figure.subplots(1, len(dtypes), sharey=True, squeeze=False)[0]
    for dtype, axes in zip(dtypes, panels, strict=True):
        for number, name in enumerate(names):
            own = [row for row in report.rows if (row.dtype, row.variant) == (dtype, name)]
            x, y = [row.batch for row in own], [row.docs_per_second for row in own]
            axes.plot(x, y, marker="o", color=_COLOURS[number % len(_COLOURS)], label=name)
        axes.set(title=dtype, xlabel="documents a forward pass", xscale="log", yscale="log")
        axes.set_xticks(batches, [str(batch) for batch in batches])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("documents a second")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(5, len(names)), frameon=False)
    figure.suptitle(f"{report.machine}, {report.threads} threads", fontsize=10)
    image = io.BytesIO()
    figure.savefig(image, format="png")
    write_whole(path, image.getvalue())
