"""memosctl: the store from a shell. Parses, calls, prints; the work is elsewhere."""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import cli_time
from . import commands as exchanging
from .errors import InvalidArgument, MemOSError, NotAStore
from .types import Policy
from .validate import LARGEST, checked_policy

if TYPE_CHECKING:
    from .workers import Ticked

_LOG_OPTIONS = {
    "by": "what this actor did",
    "verb": "what was done",
    "subject": "to which memory",
    "since": "from this time on (ISO 8601 with a timezone)",
    "until": "before this time",
}
_KEY_FILE = "keys that the log is signed with: one a line, the newest first, each of 64 hexadecimal digits or more"
_UNCHECKED = 3  # exit status of a verification that found no fault and could not check the signatures
BENCHES = (
    "adapters",
    "builds",
    "carry",
    "compose",
    "distil",
    "locomo",
    "prefeval",
    "reload",
    "schedule",
    "serve",
    "store",
    "timemachine",
    "trust",
    "ttft",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; its exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        if words[:1] == ["demo"]:
            return _demo(words[1:])
        if words[:1] == ["bench"] and words[1:2] and words[1] in BENCHES:
            return int(importlib.import_module(f"memos_core.bench.{words[1]}").main(words[2:]) or 0)
        args = _parser().parse_args(words)
        return int(args.run(args) or 0)
    except MemOSError as error:
        print(f"memosctl: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("memosctl: interrupted; what was acknowledged is stored", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output went away (head)
        sys.stderr.close()
        return 141


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="memosctl", description="Long-term memory for LLM applications.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    # these two hand their arguments on; here they stand for the list of commands
    commands.add_parser("demo", help="an agent that remembers, in two processes: one lives, one is asked")

    for name, run, help in (
        ("search", _search, "find memories"),
        ("log", _log, "who did what to which memory when"),
        ("lifecycle", _lifecycle, "every state of a memory, and what leads from one to another"),
        ("verify", _verify, "hold the log against its chain of hashes"),
        ("stats", _stats, "what is in a store"),
        ("why", _why, "why a memory is held as it is: the last decisions about it"),
        ("top", _top, "how the store is held, live: tiers against budgets, moves under way, reasons"),
        ("report", _report, "the same over time, as one HTML file"),
        ("tick", _tick, "upkeep: carry out what the scheduler plans, expire, sweep, compact"),
        ("reembed", _reembed, "rebuild all vectors with another embedder; go on where a killed run stopped"),
    ):
        command = commands.add_parser(name, help=help, description=help)
        command.set_defaults(run=run)
        if name == "lifecycle":
            continue
        command.add_argument("path", help="the store: a folder, or s3://BUCKET/PATH")
        if name == "search":
            command.add_argument("query")
            command.add_argument("-k", type=int, default=5, help="how many (default: 5)")
        if name == "log":
            for option, about in _LOG_OPTIONS.items():
                command.add_argument(f"--{option}", help=about)
            command.add_argument(
                "--limit", type=int, default=1000, help="the newest so many (default: 1000; export: all)"
            )
            command.add_argument(
                "--export", type=Path, metavar="FILE", help="write there, one JSON object a line, the oldest first"
            )
        if name == "why":
            command.add_argument("id", help="the memory")
        if name == "report":
            command.add_argument("out", type=Path, help="the file to write")
        if name == "top":
            command.add_argument("--once", action="store_true", help="show it once")
            command.add_argument("--every", type=float, default=2.0, help="seconds between two looks (default: 2)")
        if name == "verify":
            command.add_argument("--head", help="what an earlier verification printed, kept elsewhere")
        elif name != "reembed":
            command.add_argument("--actor", default="local", help="who acts (default: local)")
        if name in ("search", "log", "stats"):
            command.add_argument("--json", action="store_true", help="one JSON object a line")
        if name in ("search", "reembed"):
            command.add_argument("--embed", metavar="MODEL", help="a sentence-transformers name or folder")

    cli_time.add_commands(commands, _open)
    exchanging.add_commands(commands, _open)
    help = "do what a store's plan asks for, beside other workers, until SIGTERM"
    worker = commands.add_parser("worker", help=help, description=help)
    worker.set_defaults(run=_worker)
    worker.add_argument("path", help="the store: a folder, or s3://BUCKET/PATH")
    worker.add_argument(
        "--model", help="name or folder of the model whose keys, values and adapters are made; none: upkeep alone"
    )
    worker.add_argument("--embed", metavar="MODEL", help="a sentence-transformers name or folder")
    worker.add_argument("--adapters", action="store_true", help="make adapters too, where the plan finds that they pay")
    worker.add_argument(
        "--kv-disk-bytes", type=int, metavar="BYTES", default=Policy().kv_disk_bytes,
        help="that keys, values and adapters may take in the store: as the programs say that use it (default: 64 GiB)",
    )  # fmt: skip
    worker.add_argument("--every", type=float, default=30.0, metavar="SECONDS", help="between two looks (default: 30)")
    worker.add_argument("--ray", metavar="ADDRESS", help="run them on the Ray cluster of this head, HOST:PORT or auto")
    worker.add_argument("--replicas", type=int, default=1, help="how many, on Ray (default: 1)")
    worker.add_argument("--gpus", type=float, help="that each takes, on Ray (default: one, if there are any)")

    for name, command in commands.choices.items():
        if name not in ("demo", "lifecycle", "key"):
            command.add_argument("--audit-key-file", type=Path, metavar="FILE", help=_KEY_FILE)
    bench = commands.add_parser("bench", help="measure, with baselines in the same run")
    bench.add_argument("name", choices=BENCHES)
    return parser


def _demo(words: Sequence[str]) -> int:
    # a process of its own: the adapter stands above the engine, which does not import it
    child = subprocess.Popen([sys.executable, "-m", "langchain_memos.demo", *words])
    try:
        return child.wait()
    except KeyboardInterrupt:  # the child got it too, and tidies up
        return child.wait() or 130


def _open(args: argparse.Namespace, *, new: bool = False) -> Any:
    from .memos import MemOS
    from .sites import site

    if not new and not site(args.path).holds_store():
        raise NotAStore(f"{args.path} holds no store")
    embed = args.embed if "embed" in args else _no_embedder  # who only looks need not have the store's own
    return MemOS(args.path, embed=embed, actor=getattr(args, "actor", "local"), audit_key=_keys(args))


def _keys(args: argparse.Namespace) -> tuple[bytes, ...] | None:
    file = args.audit_key_file
    if file is None:
        return None
    try:
        lines = file.read_text(encoding="ascii").split()
        return tuple(bytes.fromhex(line) for line in lines)
    except OSError as error:
        raise InvalidArgument(f"--audit-key-file: {file}: {error.strerror or error}") from error
    except ValueError:  # which quotes what it could not read
        raise InvalidArgument(
            f"--audit-key-file: {file} holds something else than lines of hexadecimal digits"
        ) from None


def _no_embedder(texts: Sequence[str]) -> Any:
    raise InvalidArgument("embed: this command embeds nothing")


def _search(args: argparse.Namespace) -> None:
    with _open(args) as memory:
        for hit in memory.search(args.query, k=args.k):
            cube = hit.cube
            if args.json:
                print(
                    json.dumps(
                        {"id": cube.id, "score": hit.score, "why": hit.why, "text": cube.text}, ensure_ascii=False
                    )
                )
            else:
                when = cube.origin.happened_at.strftime("%Y-%m-%d %H:%M")
                print(f"{hit.score:.2f}  {when}  {cube.origin.speaker or cube.origin.role or 'note'}: {cube.text}")
                print(f"      {cube.id}  {'; '.join(hit.why)}")


def _log(args: argparse.Namespace) -> None:
    wanted = {name: getattr(args, name) for name in _LOG_OPTIONS}
    with _open(args) as memory:
        events = memory.log(limit=LARGEST if args.export else args.limit, **wanted)
    if args.export is not None:
        _write("--export", args.export, "".join(f"{json.dumps(asdict(e), default=str)}\n" for e in reversed(events)))
        print(f"{len(events)} events written to {args.export}")
        return
    for event in events:
        if args.json:
            print(json.dumps(asdict(event), default=str))
        else:
            subject = f"{event.subject} v{event.version}" if event.subject else "-"
            print(
                f"{event.at:%Y-%m-%d %H:%M:%S}  {event.actor}  {event.verb}  {subject}  {event.outcome}  {event.detail}"
            )


def _lifecycle(args: argparse.Namespace) -> None:
    from .lifecycle import TRANSITIONS

    for t in TRANSITIONS:
        of = ", ".join(state or "(new)" for state in t.of)
        print(f"{t.trigger}: {of} -> {t.to or '(gone)'}\n    {t.effect}")


def _verify(args: argparse.Namespace) -> int:
    from .verification import verify_store

    found = verify_store(args.path, head=args.head, audit_key=_keys(args))
    for fault in found.faults:
        print(fault)
    for one in found.unchecked:
        print(f"not checked: {one}")
    said = {
        "broken": "NOT as they were written",
        "linked": "as they were written, as far as their links say",
        "authentic": "as they were written, by whoever has the key",
    }
    print(f"{found.events} events, {said[found.outcome]}, head {found.head}")
    return 1 if not found.sound else _UNCHECKED if found.signed and not found.authentic else 0


def _stats(args: argparse.Namespace) -> None:
    with _open(args) as memory:
        stats, overview = asdict(memory.stats()), memory.overview()
    if args.json:
        held = {kind: size for kind, _, size in overview.forms}
        seen = [asdict(p) for p in overview.processes]
        print(json.dumps({**stats, "bytes": held, "processes": seen, "under_way": overview.under_way}))
    else:
        for name, value in stats.items():
            print(f"{name:12} {value}")


def _why(args: argparse.Namespace) -> None:
    from .looking import why_text

    with _open(args) as memory:
        print(why_text(memory.why(args.id)))


def _top(args: argparse.Namespace) -> None:
    from .looking import top_text
    from .workers import checked_every

    checked_every(args.every)
    with _open(args) as memory:
        while True:
            shown = top_text(memory.overview())
            print(shown if args.once else f"\x1b[2J\x1b[H{shown}", flush=True)
            if args.once:
                return
            time.sleep(args.every)


def _report(args: argparse.Namespace) -> None:
    from .looking import page

    with _open(args) as memory:
        text = page(memory.overview(), args.path)
    _write("out", args.out, text)
    print(args.out)


def _write(name: str, path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InvalidArgument(f"{name}: {path}: {error.strerror or error}") from error


def _tick(args: argparse.Namespace) -> None:
    with _open(args) as memory:
        report = memory.tick()
    for one in report.moves:
        print(f"{one.outcome}: {one.move.action} {one.move.form} {one.subject}: {one.detail or one.move.reason}")
    print(f"{report.used} usage records written, {report.expired} memories expired, compacted: {report.compacted}")


def _worker(args: argparse.Namespace) -> None:
    import threading

    from . import workers
    from .distillation import Distillation
    from .sites import site

    workers.checked_every(args.every)
    if args.ray is None and (args.replicas != 1 or args.gpus is not None):
        raise InvalidArgument("--replicas, --gpus: these are for --ray; without it, start as many workers as you want")
    if not site(args.path).holds_store():
        raise NotAStore(f"{args.path} holds no store")
    how = Distillation() if args.adapters else None
    policy = checked_policy(Policy(kv_disk_bytes=args.kv_disk_bytes))
    opening = workers.Opening(
        args.path, embed=args.embed, model=args.model, distillation=how, policy=policy, audit_key=_keys(args)
    )
    stop = threading.Event()
    with workers.until_told(stop):
        if args.ray is None:
            worked = [workers.work(opening, every=args.every, stop=stop, told=_say)]
        else:
            worked = workers.ray(
                opening,
                address=args.ray,
                replicas=args.replicas,
                every=args.every,
                gpus=args.gpus,
                stop=stop,
                told=_say,
            )
    for one in worked:
        print(
            f"worker {one.worker}: {one.ticks} ticks, {one.done} moves done, {one.failed} failed, {one.restarts} restarts"
        )


def _say(tick: Ticked) -> None:
    for word, lines in (("did", tick.done), ("failed:", tick.failed)):
        for line in lines:
            print(f"worker {tick.worker} at {tick.where} {word} {line}", flush=True)


def _reembed(args: argparse.Namespace) -> None:
    from .reembed import reembed

    def show(done: int, total: int) -> None:
        print(f"\r{done}/{total} memories", end="", file=sys.stderr, flush=True)

    changed = reembed(args.path, args.embed, progress=show, audit_key=_keys(args))
    print(f"\n{changed} memories have vectors of the new embedder" if changed else "nothing to do: same embedder")


if __name__ == "__main__":
    sys.exit(main())
