"""What the scheduler knows and did, as words for a terminal and as one HTML page that needs nothing from elsewhere. Pure: records in,
text out."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from . import amounts
from .reports import Overview, Process, Sample, Why
from .types import Event

_BAR = 24  # characters of a bar
_LINES = 12  # decisions shown in a terminal


def why_text(why: Why) -> str:
    """Why a memory is held as it is."""
    last = f", last {why.usage.last_read_at:%Y-%m-%d %H:%M}" if why.usage.last_read_at else ""
    lines = [f"{why.id}  {why.kind}, {why.state}; read {why.usage.reads} times{last}"]
    for one in why.standings:
        where = "/".join(one.namespace) or "everything"
        need = "" if one.needed is None else f", and a place in the passage takes {one.needed:.0%}"
        lines.append(
            f"  asked under {where}: wanted by {one.share:.0%} of {one.requests:.1f} requests (fading){need}; "
            f"{'it has one' if one.kept else 'it has none'}"
        )
    lines += [f"  {_decision(event)}" for event in why.decisions]
    return "\n".join(lines if why.decisions else [*lines, "  nothing was decided about it yet"])


def top_text(overview: Overview) -> str:
    """How a store is held just now."""
    forms = ", ".join(
        f"{count} {kind} ({amounts.size(size)})" if size else f"{count} {kind}" for kind, count, size in overview.forms
    )
    lines = [f"{overview.at:%Y-%m-%d %H:%M:%S}  {forms or 'no memories'}", ""]
    if not overview.processes:
        lines.append("no process with a model has ticked in the last ten minutes")
    for process in overview.processes:
        lines += _process(process, overview.samples[-1] if overview.samples else None)
    lines += ["", "under way:"] + ([f"  {id}  {what}" for id, what in overview.under_way] or ["  nothing"])
    return "\n".join(
        [*lines, "", "decided:", *([f"  {_decision(e)}" for e in overview.decisions[:_LINES]] or ["  nothing yet"])]
    )


def _process(process: Process, sample: Sample | None) -> list[str]:
    disk = 0 if sample is None else sample.disk + sample.adapters
    answered = process.answered
    hits = f"{answered.cached / answered.tokens:.0%}" if answered.tokens else "-"
    return [
        f"process {process.id[:8]}, model {process.model.split('/')[0]}: {process.prefill:,.0f} tokens/s run, {amounts.size(int(process.load))}/s loaded",
        f"  device  {_bar(process.device, process.device_budget)}",
        f"  host    {_bar(process.host, process.host_budget)}",
        f"  disk    {_bar(disk, process.disk_budget)}",
        f"  {answered.requests} answers, {hits} of {answered.tokens:,} tokens were held; first token p50 {amounts.time(answered.p50)}, "
        f"p95 {amounts.time(answered.p95)}",
    ]  # fmt: skip


def _bar(held: int, budget: int) -> str:
    if not budget:
        return "nothing is held here"
    full = min(_BAR, round(_BAR * held / budget))
    return f"[{'#' * full}{'.' * (_BAR - full)}] {amounts.size(held)} of {amounts.size(budget)}"


def _decision(event: Event) -> str:
    failed = "" if event.outcome == "ok" else f" ({event.outcome})"
    return f"{event.at:%Y-%m-%d %H:%M:%S}  {event.verb}{failed}  {event.subject or '-'}  {event.detail}"


# --- a page -----------------------------------------------------------------------------------------------------------------

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222;background:#fff}
h1{font-size:1.5rem}h2{font-size:1.1rem;margin-top:2rem}table{border-collapse:collapse;width:100%}
td,th{text-align:left;padding:.2rem .6rem .2rem 0;border-bottom:1px solid #ddd;vertical-align:top;font-variant-numeric:tabular-nums}
svg{width:100%;height:auto}.bar{background:#4477aa;height:.7rem}.id{font:12px ui-monospace,monospace;white-space:nowrap}.failed{color:#a00}
@media(prefers-color-scheme:dark){body{color:#ddd;background:#181818}td,th{border-color:#444}.bar{background:#88bbee}}
"""
_COLOURS = {"disk": "#4477aa", "host": "#ccbb44", "device": "#ee6677"}


def page(overview: Overview, path: str) -> str:
    """The report: tiers over time, heat, decisions, and what other budgets would save."""
    parts = [
        f"<h1>{escape(path)}</h1><p>{overview.at:%Y-%m-%d %H:%M:%S %Z}</p>",
        "<h2>What is held</h2>", _table(("form", "memories", "bytes"), [(k, f"{n:,}", f"{b:,}") for k, n, b in overview.forms]),
        "<h2>Tiers over time</h2>", _lines(overview.samples),
        "<h2>Heat</h2><p>Share of the requests that wanted a memory, fading.</p>", _heat(overview.warm),
        "<h2>What other budgets would save</h2>", _budgets(overview.processes),
        "<h2>Decisions</h2>", _decisions(overview.decisions),
    ]  # fmt: skip
    head = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    )
    return f"{head}<title>memosctl report</title><style>{_STYLE}</style></head><body>{''.join(parts)}</body></html>\n"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return "<p>Nothing.</p>"
    first = "".join(f"<th>{escape(name)}</th>" for name in head)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><tr>{first}</tr>{body}</table>"


def _lines(samples: Sequence[Sample]) -> str:
    if len(samples) < 2:
        return "<p>Fewer than two ticks with a model.</p>"
    start, span = samples[0].at, max(1e-9, samples[-1].at - samples[0].at)
    most = max(1, *(max(s.disk + s.adapters, s.host, s.device) for s in samples))
    series = {
        "disk": [s.disk + s.adapters for s in samples],
        "host": [s.host for s in samples],
        "device": [s.device for s in samples],
    }
    drawn = []
    for name, sizes in series.items():
        points = " ".join(
            f"{40 + 740 * (s.at - start) / span:.1f},{210 - 190 * size / most:.1f}"
            for s, size in zip(samples, sizes, strict=True)
        )
        drawn.append(f'<polyline points="{points}" fill="none" stroke="{_COLOURS[name]}" stroke-width="2"/>')
    legend = "".join(
        f'<text x="{60 + 90 * i}" y="238" fill="{_COLOURS[name]}">{name}</text>' for i, name in enumerate(series)
    )
    axis = '<line x1="40" y1="210" x2="780" y2="210" stroke="#888"/>'
    top = f'<text x="40" y="14" fill="#888">{amounts.size(most)}</text>'
    return f'<svg viewBox="0 0 800 245" font-size="13">{axis}{top}{"".join(drawn)}{legend}</svg>'


def _heat(warm: Sequence[tuple[str, float]]) -> str:
    if not warm:
        return "<p>Nothing was asked of a model yet.</p>"
    rows = "".join(
        f'<tr><td class="id">{escape(id)}</td><td>{share:.0%}</td><td style="width:60%"><div class="bar" style="width:{share:.0%}"></div></td></tr>'
        for id, share in warm
    )
    return f"<table>{rows}</table>"


def _budgets(processes: Sequence[Process]) -> str:
    parts = []
    for process in processes:
        now = saved(process, process.disk_budget)
        rows = [
            (f"{factor:g} times", amounts.size(int(process.disk_budget * factor)), f"{saved(process, process.disk_budget * factor):.2f} s",
             f"{saved(process, process.disk_budget * factor) - now:+.2f} s")
            for factor in (0.25, 0.5, 1.0, 2.0, 4.0)
        ]  # fmt: skip
        parts.append(
            f"<p>Model {escape(process.model.split('/')[0])}, by what is asked for now:</p>"
            + _table(("budget of the disk", "bytes", "saved each hour", "change"), rows)
        )
    return "".join(parts) or "<p>No process with a model has ticked in the last ten minutes.</p>"


def saved(process: Process, budget: float) -> float:
    """Seconds saved an hour with a budget of the disk, by the process's curve."""
    best, size, seconds = 0.0, 0, 0.0
    for more, total in process.curve:
        if more > budget:  # of what stands between two points, the share that fits
            return best + (total - seconds) * max(0.0, budget - size) / (more - size)
        best, size, seconds = total, more, total
    return best


def _decisions(events: Sequence[Event]) -> str:
    if not events:
        return "<p>Nothing yet.</p>"
    rows = "".join(
        f'<tr class="{"" if e.outcome == "ok" else "failed"}"><td>{e.at:%Y-%m-%d %H:%M:%S}</td><td>{escape(e.verb)}</td>'
        f'<td class="id">{escape(e.subject or "-")}</td><td>{escape(e.detail)}</td></tr>'
        for e in events
    )
    return f"<table>{rows}</table>"
