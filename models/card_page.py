"""A model card as one HTML page: no script, nothing from other hosts, plots as inline SVG.

Colours come from one palette; every plot has its numbers in a table or a label beside it.
"""

import html
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import matplotlib as mpl

mpl.use("svg")
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from models import drift, drivers

INK, BLUE, ORANGE, GREY, RED = "#1b1f24", "#2f6fb5", "#c96a12", "#9aa3ad", "#b3261e"
_TOP = 15
_STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #1b1f24; background: #fff; margin: 2rem auto; max-width: 72rem;
  padding: 0 1.2rem; }
h1 { font-size: 1.5rem; margin-bottom: .2rem; } h2 { font-size: 1.1rem; margin: 2rem 0 .6rem; }
p.lead { color: #57606a; margin-top: 0; }
table { border-collapse: collapse; margin: .4rem 0 1rem; } td, th { padding: .25rem .8rem .25rem 0; text-align: left;
  border-bottom: 1px solid #e3e6ea; vertical-align: top; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; }
.ok { color: #1a7f37; } .no { color: #b3261e; font-weight: 600; } .warn { color: #9a6700; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(26rem, 1fr)); gap: 1.5rem; }
figure { margin: 0; } figcaption { color: #57606a; font-size: .87rem; } svg { width: 100%; height: auto; }
"""


def page(card: Mapping[str, Any], version: str) -> str:
    """The whole page of a card as `models.card.compose` makes it."""
    of = card.get("of", "click")
    parts = [
        f"<h1>Model {html.escape(version)}</h1>",
        f"<p class=lead>{html.escape(card['purpose'])}; parent: {html.escape(card['parent'] or 'none')}</p>",
        "<h2>Gate</h2>",
        _gate(card["gate"]),
        "<h2>On rows nothing was fitted on</h2>",
        _table(
            ("measure", "value"),
            [(name.replace("_", " "), _number(value)) for name, value in card["test"].items()],
        ),
        *(_rates(card, of) if "slices" in card else ()),
        "<h2>What the model looks at</h2><div class=plots>",
        _figure(_importance, card["model"]["importance"], "Share of the total split gain."),
        _figure(
            _drift,
            card["drift"],
            f"Stability index (PSI); above {drift.WARN} look, {drift.BLOCK} blocks; grey moves by nature.",
        ),
        f"</div><h2>What drives {of}s, by campaign</h2>",
        _drivers(card["drivers"], "the amount" if of == "value" else "the odds"),
        *(("<h2>Slices</h2>", *(_slices(k, v, of) for k, v in card["slices"].items())) if "slices" in card else ()),
        "<h2>Data</h2>",
        _table(("what", "value"), [(name.replace("_", " "), _flat(value)) for name, value in card["data"].items()]),
        "<h2>Model</h2>",
        _table(
            ("what", "value"),
            [(name, _flat(value)) for name, value in card["model"].items() if name != "importance"],
        ),
        "<h2>Limits</h2><ul>",
        *(f"<li>{html.escape(line)}</li>" for line in card["limits"]),
        "</ul>",
    ]
    head = f"<!doctype html><html lang=en><head><meta charset=utf-8><title>Model {html.escape(version)}</title>"
    return f"{head}<style>{_STYLE}</style></head><body>{''.join(parts)}</body></html>"


def _rates(card: Mapping[str, Any], of: str) -> Iterator[str]:
    """Calibration of what predicts a probability."""
    compared = f"Predicted over observed {of}s"
    yield "<h2>Calibration</h2><div class=plots>"
    yield _figure(
        lambda axes, curve: _calibration(axes, curve, of),
        card["calibration_curve"],
        "Twenty bins of equal size by prediction; bars are one standard error; on the line, predictions are right.",
    )
    yield _figure(
        _campaigns,
        card["slices"]["campaign"],
        f"{compared} per campaign, with one standard error; the band is what the gate allows.",
    )
    if len(card["slices"].get("hour", {})) > 1:
        yield _figure(_by_hour, card["slices"]["hour"], f"{compared} by hour, with one standard error.")
    yield "</div>"


def _gate(checks: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for check in checks:
        verdict = (
            "<span class=ok>passed</span>"
            if check["passed"] and check["blocks"]
            else "<span class=no>failed</span>"
            if not check["passed"]
            else "<span class=warn>look</span>"
        )
        rows.append(
            f"<tr><td>{html.escape(check['name'])}</td><td>{html.escape(check['value'])}</td>"
            f"<td>{html.escape(check['limit'])}</td><td>{verdict}</td></tr>"
        )
    return f"<table><tr><th>rule<th>measured<th>allowed<th></tr>{''.join(rows)}</table>"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    top = "".join(f"<th>{html.escape(name)}</th>" for name in head)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{top}</tr>{body}</table>"


def _slices(kind: str, values: Mapping[str, Mapping[str, Any]], of: str) -> str:
    head = (kind, "rows", f"{of}s", "predicted / observed", "±", "NE", "AUC")
    rows = [
        "<tr>"
        f"<td>{html.escape(name)}</td>"
        + "".join(
            f"<td class=n>{_number(line[key])}</td>"
            for key in ("rows", "clicks", "calibration", "calibration_se", "ne", "auc")
        )
        + "</tr>"
        for name, line in values.items()
    ]
    top = "".join(f"<th{' class=n' if n else ''}>{html.escape(name)}</th>" for n, name in enumerate(head))
    return f"<table><tr>{top}</tr>{''.join(rows)}</table>"


def _drivers(found: Mapping[str, Sequence[Mapping[str, Any]]], what: str) -> str:
    lists = [
        f"<h3>{html.escape(campaign)}</h3><ul>" + "".join(f"<li>{html.escape(line)}</li>" for line in lines) + "</ul>"
        for campaign, lines in drivers.words(found, what).items()
    ]
    return (
        f"<div class=plots>{''.join(f'<div>{text}</div>' for text in lists)}</div>" if lists else "<p>Too few rows.</p>"
    )


def _number(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if float(value).is_integer() and abs(value) >= 1 else f"{value:.4g}"


def _flat(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name.replace('_', ' ')} {_flat(entry)}" for name, entry in value.items())
    return _number(value) if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


def _figure(draw: Any, values: Any, caption: str) -> str:
    with mpl.rc_context({"font.size": 10, "svg.fonttype": "none", "svg.hashsalt": "card", "axes.edgecolor": GREY}):
        figure = Figure(figsize=(6, 4), layout="constrained")
        axes = figure.subplots()
        axes.spines[["top", "right"]].set_visible(False)
        draw(axes, values)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None})
    svg = out.getvalue()
    return f"<figure>{svg[svg.index('<svg') :]}<figcaption>{html.escape(caption)}</figcaption></figure>"


def _calibration(axes: Axes, curve: Sequence[Mapping[str, float]], of: str) -> None:
    # Logarithmic: most bins of a click model lie far below the last one. A bin without any is drawn at the lower edge.
    x = [max(line["predicted"], 1e-9) for line in curve]
    low = min([*x, *(line["observed"] for line in curve if line["observed"] > 0)]) / 2
    top = max([*x, *(line["observed"] for line in curve)]) * 1.5
    y = [max(line["observed"], low) for line in curve]
    bars = [
        [min(line["se"], value - low) for line, value in zip(curve, y, strict=True)],
        [line["se"] for line in curve],
    ]
    axes.set(xscale="log", yscale="log", xlim=(low, top), ylim=(low, top))
    axes.plot([low, top], [low, top], color=GREY, linewidth=1)
    axes.errorbar(x, y, yerr=bars, fmt="o", color=BLUE, markersize=4, capsize=2, linewidth=1)
    axes.set(xlabel=f"predicted {of} rate", ylabel=f"observed {of} rate")


def _ratios(axes: Axes, values: Mapping[str, Mapping[str, Any]]) -> None:
    shown = [(name, line) for name, line in values.items() if line["calibration"] is not None][:_TOP]
    for n, (_, line) in enumerate(reversed(shown)):
        axes.errorbar(
            line["calibration"],
            n,
            xerr=line["calibration_se"],
            fmt="o",
            color=BLUE,
            markersize=5,
            capsize=2,
            linewidth=1,
        )
    axes.axvline(1, color=GREY, linewidth=1)
    axes.set_yticks(range(len(shown)), [name for name, _ in reversed(shown)])
    axes.set_xlabel("predicted / observed")


def _campaigns(axes: Axes, values: Mapping[str, Mapping[str, Any]]) -> None:
    axes.axvspan(0.85, 1.15, color=GREY, alpha=0.18, linewidth=0)
    _ratios(axes, values)


def _by_hour(axes: Axes, values: Mapping[str, Mapping[str, Any]]) -> None:
    shown = sorted((name, line) for name, line in values.items() if line["calibration"] is not None)
    axes.axhline(1, color=GREY, linewidth=1)
    axes.errorbar(
        range(len(shown)),
        [line["calibration"] for _, line in shown],
        yerr=[line["calibration_se"] for _, line in shown],
        fmt="o", color=BLUE, markersize=4, capsize=2, linewidth=1,
    )  # fmt: skip
    axes.set_xticks(range(len(shown)), [name for name, _ in shown], fontsize=8)
    axes.set(xlabel="local hour", ylabel="predicted / observed")


def _bars(axes: Axes, values: Mapping[str, float], colours: Sequence[str], text: str) -> None:
    shown = list(values.items())[:_TOP]
    axes.barh(range(len(shown)), [value for _, value in reversed(shown)], color=list(reversed(colours[: len(shown)])))
    axes.set_yticks(range(len(shown)), [name for name, _ in reversed(shown)])
    axes.set_xlabel(text)


def _importance(axes: Axes, values: Mapping[str, float]) -> None:
    _bars(axes, values, [BLUE] * len(values), "share of gain")


def _drift(axes: Axes, values: Mapping[str, float]) -> None:
    colours = [
        GREY if name in drift.MOVING else RED if index > drift.BLOCK else ORANGE if index > drift.WARN else BLUE
        for name, index in values.items()
    ]
    # What moves by nature can have any index; drawn to scale it would hide the others.
    _bars(axes, {name: min(index, 4 * drift.BLOCK) for name, index in values.items()}, colours, "PSI")
    for n, index in enumerate(reversed(list(values.values())[:_TOP])):
        axes.text(min(index, 4 * drift.BLOCK), n, f" {index:.2f}", va="center", fontsize=8)
    axes.set_xlim(0, 4.6 * drift.BLOCK)
    for limit, colour in ((drift.WARN, ORANGE), (drift.BLOCK, RED)):
        axes.axvline(limit, color=colour, linewidth=1, linestyle="--")
