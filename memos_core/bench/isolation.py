"""Whether anybody is given what is another's: random acts of twenty actors, with groups and purposes, in two processes, in branches, and with
dumps, loads and publications that carry memories into a second store, whose own people name the same groups.

What each actor may read is kept in a dictionary beside the stores, and each search is held against it. In the second store a memory may be
read by whoever brought it there, and by whoever could read it in the first store when it left, and by nobody else.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import AccessDenied, DumpRefused, NotFound
from ..grants import grant
from ..memos import MemOS
from ..signing import new_key
from ..types import PUBLIC, Access
from . import Timing, progress, timed
from .synthetic import Lookup

PURPOSES = (None, "support", "sales")
GROUPS = ("red", "blue", "green")
ACTORS = tuple(f"actor{n}" for n in range(20))
_MOST = 100_000  # hits: all

Given = tuple[tuple[str, str | None], ...]
Asker = tuple[str, str | None]  # an actor in a calling context


@dataclass
class Right:
    """Who may read one memory: its owner, and grants."""

    owner: str
    given: Given


@dataclass
class Truth:
    """What is in the first store, by text, and who is in which group."""

    members: dict[str, set[str]] = field(default_factory=dict)
    rights: dict[str, Right] = field(default_factory=dict)
    ids: dict[str, str] = field(default_factory=dict)

    def readable(self, who: str, purpose: str | None) -> set[str]:
        """The texts that an actor may read in a context."""
        return {text for text, right in self.rights.items() if self.holds(right, who, purpose)}

    def holds(self, right: Right, who: str, purpose: str | None) -> bool:
        """Whether a memory may be read."""
        return right.owner == who or any(self._lets(*one, who, purpose) for one in right.given)

    def askers(self, text: str) -> set[Asker]:
        """Everybody who may read a memory, and in which context."""
        return {(a, p) for a in ACTORS for p in PURPOSES if self.holds(self.rights[text], a, p)}

    def copy(self) -> Truth:
        """As it is now."""
        rights = {text: Right(r.owner, r.given) for text, r in self.rights.items()}
        return Truth({g: set(m) for g, m in self.members.items()}, rights, dict(self.ids))

    def _lets(self, grantee: str, needed: str | None, who: str, purpose: str | None) -> bool:
        group = grantee.removeprefix("group:")
        named = grantee in (PUBLIC, who) or (group != grantee and who in self.members[group])
        return named and needed in (None, purpose)


class OtherProcess:
    """The same store in a process of its own, with the verbs of `MemOS` that take and return plain values."""

    def __init__(self, path: Path) -> None:
        words = [sys.executable, "-m", __name__, str(path)]
        self._process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, verb: str, **arguments: Any) -> Any:
        """What a verb returns."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"verb": verb, **arguments}) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        """End it."""
        with self._process:  # which closes both pipes and waits
            pass


def serve(path: str) -> None:
    """Be the other process: a request a line, until the input ends."""
    with MemOS(path, embed=Lookup(), actor="admin") as memory:
        for line in sys.stdin:
            print(json.dumps(do(memory, **json.loads(line))), flush=True)


def do(memory: MemOS, verb: str, *, who: str, purpose: str | None = None, **arguments: Any) -> Any:
    """One act on a store, in plain values: the id of what was added, the texts that were found, or nothing."""
    readers = [grant(g, purpose=p) for g, p in arguments.get("given", ())]
    with memory.acting(purpose=purpose):
        if verb == "add":
            [cube] = memory.add(arguments["text"], actor=who, access=Access(who, frozenset(readers)))
            return cube.id
        if verb == "share":
            memory.share(arguments["id"], readers, actor=who)
        elif verb == "delete":
            memory.delete(arguments["id"], actor=who)
        elif verb == "regroup":
            memory.group(arguments["name"], arguments["members"], actor=who)
        else:
            return sorted(h.cube.text for h in memory.search("tea", actor=who, k=_MOST))
    return None


class Company:
    """The acts, and what they found."""

    def __init__(self, folder: Path, seed: int = 7) -> None:
        self._rng = random.Random(seed)
        self._folder = folder
        self._memory = MemOS(folder / "first", embed=Lookup(), actor="admin")
        self._second = MemOS(folder / "second", embed=Lookup(), actor="opener")
        self._process = OtherProcess(folder / "first")
        self._truth = Truth()
        self._came: dict[str, set[Asker]] = {}  # by text: who may read it in the second store
        self._keys: dict[str, Path] = {}
        self._count = 0
        self.acts: dict[str, int] = {}
        self.leaks: list[str] = []
        self.missing = 0
        self.gone: list[float] = []
        self.others: list[float] = []
        for name in GROUPS:
            self._name_members(name)

    def run(self, operations: int) -> None:
        """Act so often."""
        acts: tuple[tuple[float, Callable[[], None]], ...] = (
            (0.05, self._regroup), (0.25, self._add), (0.13, self._share), (0.05, self._delete),
            (0.40, self._look), (0.02, self._dump_and_load), (0.01, self._publish_and_pull), (0.005, self._branch),
            (0.035, self._claim_group), (0.05, self._look_there),
        )  # fmt: skip
        weights, choices = zip(*acts, strict=True)
        for n in range(operations):
            act = self._rng.choices(choices, weights)[0]
            name = act.__name__.removeprefix("_").replace("_", " ")
            self.acts[name] = self.acts.get(name, 0) + 1
            act()
            if n % 1_000 == 999:
                progress(f"isolation: {n + 1:,} acts, {len(self.leaks)} leaks")

    def close(self) -> None:
        """End both stores and the process."""
        self._process.close()
        self._memory.close()
        self._second.close()

    # --- in the first store ----------------------------------------------------------------------------------------------

    def _do(self, verb: str, **arguments: Any) -> Any:
        """Here or in the other process, one as often as the other."""
        if self._rng.random() < 0.5:
            return do(self._memory, verb, **arguments)
        return self._process.ask(verb, **arguments)

    def _regroup(self) -> None:
        self._name_members(self._rng.choice(GROUPS))

    def _name_members(self, name: str) -> None:
        members = self._rng.sample(ACTORS, self._rng.randint(0, 20))
        self._do("regroup", who="admin", name=name, members=members)
        self._truth.members[name] = set(members)

    def _given(self, who: str, truth: Truth) -> Given:
        mine = [f"group:{g}" for g, m in truth.members.items() if who in m]
        choices = [*ACTORS, *mine, *mine, *mine, PUBLIC]
        return tuple((self._rng.choice(choices), self._rng.choice(PURPOSES)) for _ in range(self._rng.randint(0, 3)))

    def _own(self, who: str, truth: Truth) -> str | None:
        mine = [text for text, right in truth.rights.items() if right.owner == who]
        return self._rng.choice(mine) if mine else None

    def _add(self) -> None:
        who = self._rng.choice(ACTORS)
        self._added(who, self._truth, self._do)

    def _added(self, who: str, truth: Truth, act: Callable[..., Any]) -> None:
        self._count += 1
        text, given = f"tea number {self._count}", self._given(who, truth)
        truth.ids[text] = act("add", who=who, text=text, given=given)
        truth.rights[text] = Right(who, given)

    def _share(self) -> None:
        who = self._rng.choice(ACTORS)
        if (text := self._own(who, self._truth)) is not None:
            given = self._given(who, self._truth)
            self._do("share", who=who, id=self._truth.ids[text], given=given)
            self._truth.rights[text].given = given

    def _delete(self) -> None:
        who = self._rng.choice(ACTORS)
        if (text := self._own(who, self._truth)) is not None:
            self._do("delete", who=who, id=self._truth.ids[text])
            del self._truth.rights[text]

    def _look(self) -> None:
        who, purpose = self._rng.choice(ACTORS), self._rng.choice(PURPOSES)
        allowed = self._truth.readable(who, purpose)
        self._hold("first store", who, purpose, self._do("search", who=who, purpose=purpose), allowed)
        with self._memory.acting(purpose=purpose):
            if self._memory.stats(actor=who).memories != len(allowed):
                self.leaks.append(f"stats of {who} for {purpose}")
            if closed := sorted(self._truth.rights.keys() - allowed):
                another = self._truth.ids[self._rng.choice(closed)]
                self.others.append(timed(lambda: self._refused(another, who)))
                self.gone.append(timed(lambda: self._refused(str(uuid.uuid4()), who)))

    def _refused(self, id: str, who: str) -> None:
        with suppress(NotFound):
            self._memory.get(id, actor=who)
            self.leaks.append(f"get of {id} by {who}")

    def _hold(self, where: str, who: str, purpose: str | None, found: Iterable[str], allowed: set[str]) -> None:
        seen = set(found)
        self.leaks += [f"{where}: {text!r} by {who} for {purpose}" for text in sorted(seen - allowed)]
        self.missing += len(allowed - seen)

    def _branch(self) -> None:
        truth = self._truth.copy()
        with self._memory.branch(f"try {self._count}") as trial:

            def act(verb: str, **arguments: Any) -> Any:
                return do(trial, verb, **arguments)

            for _ in range(5):
                who, purpose = self._rng.choice(ACTORS), self._rng.choice(PURPOSES)
                self._added(who, truth, act)
                self._hold(
                    "branch", who, purpose, act("search", who=who, purpose=purpose), truth.readable(who, purpose)
                )
            if self._rng.random() < 0.5:
                self._memory.merge(trial)
                self._truth = truth

    # --- in the second store ---------------------------------------------------------------------------------------------

    def _claim_group(self) -> None:
        """Somebody of the second store says who is in a group that may be named in what comes there."""
        with suppress(AccessDenied):
            self._second.group(self._rng.choice(GROUPS), self._rng.sample(ACTORS, 3), actor=self._rng.choice(ACTORS))

    def _dump_and_load(self) -> None:
        who, taker = self._rng.choice(ACTORS), self._rng.choice(ACTORS)
        target, purpose = self._folder / f"dump{self._count}", self._rng.choice(PURPOSES)
        with self._memory.acting(purpose=purpose):
            self._memory.dump(target, actor=who)
        leaving = self._truth.readable(who, purpose)
        as_they_are = self._rng.random() < 0.5
        self._second.load(target, actor="opener" if as_they_are else taker, as_they_are=as_they_are)
        for text in leaving:
            self._came.setdefault(text, set()).update(self._truth.askers(text))
            if not as_they_are:
                self._came[text] |= {(taker, p) for p in PURPOSES}

    def _publish_and_pull(self) -> None:
        who, taker = self._rng.choice(ACTORS), self._rng.choice(ACTORS)
        own = {text for text, right in self._truth.rights.items() if right.owner == who}
        if not own:
            return
        if who not in self._keys:
            self._keys[who] = self._folder / f"{who}.pem"
            new_key(self._keys[who])
        seen = self._rng.choice([[taker], [PUBLIC], [self._rng.choice(ACTORS)]])
        target = self._folder / f"offers{self._count}-{who}"
        self._memory.publish(target, who, key=self._keys[who], visibility=seen, actor=who)
        [offer] = self._second.offers(target)
        wanted = self._second.subscribe(target, trust=[offer.key], actor=taker)
        with suppress(DumpRefused):
            self._second.pull([wanted.id], actor=taker)
        if taker in seen or PUBLIC in seen:
            for text in own:
                self._came.setdefault(text, set()).update((taker, p) for p in PURPOSES)

    def _look_there(self) -> None:
        who, purpose = self._rng.choice(ACTORS), self._rng.choice(PURPOSES)
        allowed = {text for text, askers in self._came.items() if (who, purpose) in askers}
        found = set(do(self._second, "search", who=who, purpose=purpose))
        self._hold("second store", who, purpose, found, allowed & found)


def isolation(folder: Path, operations: int, seed: int = 7) -> dict[str, Any]:
    """Act so often in stores below a folder: leaks, what was not found though it may be read, and how long it takes to be refused."""
    folder.mkdir(parents=True)
    company = Company(folder, seed)
    try:
        company.run(operations)
    finally:
        company.close()
    return {
        "operations": operations, "of them": dict(sorted(company.acts.items())), "leaks": len(company.leaks), "missing": company.missing,
        "first leaks": company.leaks[:5], "get of what is not there": str(Timing.of(company.gone or [0.0])),
        "get of what is another's": str(Timing.of(company.others or [0.0])),
    }  # fmt: skip


if __name__ == "__main__":
    serve(sys.argv[1])
