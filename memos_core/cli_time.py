"""memosctl's commands of time: snapshot, snapshots, diff, rollback. Parses, calls, prints."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from .commands import labels

Opened = Callable[[argparse.Namespace], Any]


def add_commands(commands: Any, opened: Opened) -> None:
    """Add them to an argument parser's commands. `opened` opens the store that the arguments name."""
    for name, run, help in (
        ("snapshot", _snapshot, "remember this moment under a name; with --drop, no more"),
        ("snapshots", _snapshots, "which moments are remembered"),
        ("diff", _diff, "what changed since a snapshot, or between two"),
        ("rollback", _rollback, "make memories what they were at a snapshot"),
    ):
        command = commands.add_parser(name, help=help, description=help)
        command.set_defaults(run=lambda args, run=run: run(args, opened))
        command.add_argument("path", help="the store")
        command.add_argument("--actor", default="local", help="who acts (default: local)")
        command.add_argument("--embed", metavar="MODEL", help="a sentence-transformers name or folder")
        if name == "snapshot":
            command.add_argument("name")
            command.add_argument("--drop", action="store_true", help="forget the name; of the memories nothing changes")
        elif name == "diff":
            command.add_argument("a", help="a snapshot")
            command.add_argument("b", nargs="?", help="another one (default: now)")
        elif name == "rollback":
            command.add_argument("name")
            command.add_argument("--namespace", metavar="A/B", help="only at or below it")
            command.add_argument("--id", help="only this memory")
            command.add_argument("--everybody", action="store_true", help="all owners' memories, not only the actor's")
        if name != "snapshot":
            command.add_argument("--json", action="store_true", help="JSON")


def _snapshot(args: argparse.Namespace, opened: Opened) -> None:
    with opened(args) as memory:
        if args.drop:
            memory.drop_snapshot(args.name)
        else:
            memory.snapshot(args.name)


def _snapshots(args: argparse.Namespace, opened: Opened) -> None:
    with opened(args) as memory:
        for found in memory.snapshots():
            print(
                json.dumps(asdict(found), default=str) if args.json else f"{found.at:%Y-%m-%d %H:%M:%S}  {found.name}"
            )


def _diff(args: argparse.Namespace, opened: Opened) -> None:
    with opened(args) as memory:
        found = memory.diff(args.a, args.b)
        if args.json:
            print(json.dumps(asdict(found)))
            return
        for sign, some in (("+", found.added), ("-", found.removed), ("~", found.changed)):
            for one in some:
                print(f"{sign} {one.id}  {_version(one.before)} -> {_version(one.after)}{'  deleted' * one.forgotten}")


def _rollback(args: argparse.Namespace, opened: Opened) -> None:
    namespace = labels(args.namespace)
    with opened(args) as memory:
        done = memory.rollback(args.name, namespace=namespace, id=args.id, everybody=args.everybody)
    if args.json:
        print(json.dumps({**asdict(done), "at": str(done.at)}))
        return
    print(
        f"{len(done.returned)} memories as they were, {len(done.withdrawn)} later ones withdrawn, {len(done.left)} left"
    )
    for id, why in done.left.items():
        print(f"  {id}  {why}")


def _version(version: int | None) -> str:
    return "none" if version is None else f"v{version}"
