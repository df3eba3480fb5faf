"""The commands of memosctl that carry memories: dump, load, key, publish, offers, subscribe, pull; and who is given what is sensitive raw.
Parses, calls, prints."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from .errors import InvalidArgument
from .types import Kind

Open = Callable[..., Any]


def add_commands(commands: Any, open_store: Open) -> None:
    """Add the commands to a parser's; `open_store(args, new=...)` opens the store that they name."""
    dump = _command(
        commands, "dump", "write memories to a folder, or to an archive if the target ends in .zip", _dump, open_store
    )
    dump.add_argument("target", help="a path, or a URL that fsspec knows")
    _selecting(dump)
    dump.add_argument("--no-history", action="store_true", help="only the current versions")
    dump.add_argument(
        "--whole", action="store_true", help="the store as it is, all owners' memories: an operator's right"
    )

    load = _command(commands, "load", "take in a dump, or what another system exported", _load, open_store)
    load.add_argument("source", help="a dump, or with --from a file of another system")
    load.add_argument(
        "--from", dest="system", choices=("jsonl", "langgraph", "llamaindex", "mem0", "letta"), help="which system"
    )
    load.add_argument("--namespace", default="default", help="with --from: below which, as a/b (default: default)")
    load.add_argument("--owner", help="whose the memories become (default: who acts)")
    load.add_argument("--as-they-are", action="store_true", help="every memory keeps its owner and readers")
    load.add_argument(
        "--kinds",
        nargs="+",
        choices=[k.value for k in Kind],
        default=[k.value for k in Kind],
        help="only of these forms",
    )
    load.add_argument("--trust", nargs="+", metavar="KEY", help="public keys, one of which must have signed it")
    load.add_argument("--accept", metavar="FILE", help="a file with the licence that you accept")

    operator = _command(
        commands, "operator", "who runs the store: may dump it whole", _operator, open_store, embeds=False
    )
    operator.add_argument("what", choices=("list", "add", "remove"))
    operator.add_argument("name", nargs="?", help="of the operator")

    key = commands.add_parser(
        "key", help="make a key to publish with", description="Make an Ed25519 key; print its public half."
    )
    key.set_defaults(run=_key)
    key.add_argument("file", help="where the private key is written")

    publish = _command(commands, "publish", "publish memories that you own, signed", _publish, open_store)
    publish.add_argument("target", help="a folder or bucket")
    publish.add_argument("name", help="of the publication")
    publish.add_argument("--key", required=True, metavar="FILE", help="the private key")
    publish.add_argument(
        "--visible-to", nargs="+", required=True, metavar="ACTOR", help="who may load it; '*' for everybody"
    )
    publish.add_argument("--about", default="", help="what it is about")
    publish.add_argument("--tags", nargs="+", default=[], help="what it is found by")
    publish.add_argument("--licence", metavar="FILE", help="a file with its licence")
    publish.add_argument("--expires", metavar="TIME", help="when it ends, in ISO 8601 with an offset")
    publish.add_argument("--uses", type=int, help="how often one store may load it")
    _selecting(publish)

    offers = _command(commands, "offers", "what is published somewhere, and by whom", _offers, open_store, embeds=False)
    offers.add_argument("target", help="a folder or bucket")

    subscribe = _command(commands, "subscribe", "follow what is published somewhere", _subscribe, open_store)
    subscribe.add_argument("target", help="a folder or bucket")
    subscribe.add_argument("--trust", nargs="+", required=True, metavar="KEY", help="public keys")
    subscribe.add_argument("--tags", nargs="+", default=[], help="any of these")
    subscribe.add_argument("--like", help="about something like this")
    subscribe.add_argument(
        "--accept", nargs="+", default=[], metavar="FILE", help="files with licences that you accept"
    )

    about = (
        "who is given what is sensitive in the store as it is, besides its owner; with names: exactly these from now on"
    )
    allow = _command(commands, "allow-raw", about, _allow_raw, open_store, embeds=False)
    allow.add_argument(
        "readers", nargs="*", metavar="WHO", help="actors, group:NAME, or grants (default: none are set)"
    )
    allow.add_argument("--nobody", action="store_true", help="nobody from now on")

    pull = _command(commands, "pull", "bring what is new of what you follow", _pull, open_store)
    pull.add_argument("ids", nargs="*", help="of subscriptions (default: all)")


def _command(
    commands: Any,
    name: str,
    help: str,
    run: Callable[[argparse.Namespace], object],
    open_store: Open,
    *,
    embeds: bool = True,
) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(name, help=help, description=help)
    command.set_defaults(run=run, open_store=open_store)
    command.add_argument("path", help="the store")
    command.add_argument("--actor", default="local", help="who acts (default: local)")
    if embeds:
        command.add_argument("--embed", metavar="MODEL", help="a sentence-transformers name or folder")
    return command


def _selecting(command: argparse.ArgumentParser) -> None:
    command.add_argument("--namespace", help="only at or below it, as a/b (default: all)")
    command.add_argument(
        "--kinds", nargs="+", choices=[k.value for k in Kind], help="only of these forms (default: all)"
    )


def _dump(args: argparse.Namespace) -> None:
    with args.open_store(args) as memory:
        _say(memory.dump(
            args.target, namespace=labels(args.namespace), kinds=args.kinds, history=not args.no_history, whole=args.whole,
            progress=_show("memories"),
        ))  # fmt: skip


def _load(args: argparse.Namespace) -> None:
    with args.open_store(args, new=True) as memory:
        if args.system is not None:
            from .importers import READERS

            count, new = memory.bring_in(
                READERS[args.system](args.source), namespace=labels(args.namespace), progress=_show("memories")
            )
            _say({"memories": count, "new or changed": new})
            return
        _say(memory.load(
            args.source, owner=args.owner, as_they_are=args.as_they_are, kinds=args.kinds, trust=args.trust,
            accept=None if args.accept is None else _text(args.accept), progress=_show("bytes"),
        ))  # fmt: skip


def _operator(args: argparse.Namespace) -> None:
    if (args.what == "list") != (args.name is None):
        raise InvalidArgument("NAME: it goes with add and remove, and list has none")
    with args.open_store(args) as memory:
        change = {"add": memory.grant_operator, "remove": memory.revoke_operator}.get(args.what)
        print("\n".join(sorted(memory.operators() if change is None else change(args.name))) or "nobody")


def _key(args: argparse.Namespace) -> None:
    from .signing import new_key

    print(new_key(args.file))


def _publish(args: argparse.Namespace) -> None:
    with args.open_store(args) as memory:
        _say(memory.publish(
            args.target, args.name, key=args.key, visibility=args.visible_to, about=args.about, tags=args.tags,
            licence="" if args.licence is None else _text(args.licence), expires_at=args.expires, uses=args.uses,
            namespace=labels(args.namespace), kinds=args.kinds, progress=_show("memories"),
        ))  # fmt: skip


def _offers(args: argparse.Namespace) -> None:
    with args.open_store(args) as memory:
        for offer in memory.offers(args.target):
            terms = offer.terms
            if offer.refused is not None:
                print(f"{terms.name} is refused: {offer.refused}", file=sys.stderr)
                continue
            print(
                f"{terms.name} version {terms.number}: {offer.memories} memories, {offer.bytes:,} bytes, {', '.join(terms.tags)}"
            )
            print(f"      {terms.about}\n      signed by {offer.key}")


def _subscribe(args: argparse.Namespace) -> None:
    with args.open_store(args, new=True) as memory:
        made = memory.subscribe(
            args.target, trust=args.trust, tags=args.tags, like=args.like, accept=[_text(f) for f in args.accept]
        )
    print(made.id)


def _pull(args: argparse.Namespace) -> int:
    with args.open_store(args) as memory:
        reports = memory.pull(args.ids or None, progress=_show("bytes"))
    for report in reports:
        if report.refused is not None:
            print(f"{report.name}: refused: {report.refused}")
        elif report.loaded is None:
            print(f"{report.name} version {report.number}: nothing new")
        else:
            done = report.loaded
            print(
                f"{report.name} version {report.number}: {done.added} added, {done.updated} updated, {report.withdrawn} withdrawn,"
                f" {report.new_files} of {report.files} files"
            )
    return 1 if any(r.refused is not None for r in reports) else 0


def _allow_raw(args: argparse.Namespace) -> None:
    if args.readers and args.nobody:
        raise InvalidArgument("WHO, --nobody: give one of them")
    with args.open_store(args) as memory:
        if args.readers or args.nobody:
            memory.allow_raw(args.readers)
        print("\n".join(sorted(memory.raw_readers())) or "nobody")


def _say(report: Any) -> None:
    """A report's entries, those that say nothing aside."""
    said: Mapping[str, Any] = (
        report if isinstance(report, Mapping) else {f.name: getattr(report, f.name) for f in fields(report)}
    )
    for name, value in said.items():
        if value not in (None, {}, ()):
            print(f"{name.replace('_', ' '):15} {f'{value:,}' if isinstance(value, int) else value}")


def _show(what: str) -> Callable[[int, int], None]:
    def show(done: int, total: int) -> None:
        end = "\n" if done == total else ""
        print(f"\r{done:,} of {total:,} {what}", end=end, file=sys.stderr, flush=True)

    return show


def labels(path: str | None) -> tuple[str, ...]:
    """A namespace as it is typed, a/b; None is all. Raises InvalidArgument for one without a label: an empty word is not everything."""
    found = tuple(label for label in (path or "").split("/") if label)
    if path is not None and not found:
        raise InvalidArgument("--namespace: there is no label in it; leave it out for everything")
    return found


def _text(file: str) -> str:
    try:
        return Path(file).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise InvalidArgument(f"{file}: {error}") from None
