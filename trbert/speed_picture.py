"""The picture of a speed report."""

import io
from pathlib import Path

from trbert.bench import Report
from trbert.files import write_whole

_COLOURS = ("#9a9a9a", "#333333", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")


def draw(report: Report, path: Path) -> None:
    """Writes the picture: throughput over batch size, one panel an arithmetic, one line a variant.

    Raises:
        ImportError: matplotlib is not installed; using a model does not need it.
    """
    # No pyplot: it keeps global state.
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
