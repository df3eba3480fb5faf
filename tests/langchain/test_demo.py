"""The demo: what it reads, what its two processes do, and what a person sees of it."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("langchain", reason="needs the extra langchain")

from langchain_memos import demo
from langchain_memos.transcript import Question, UnreadableTranscript, read
from memos_core import MemOS

LOCOMO = {
    "sample_id": "conv-1",
    "conversation": {
        "speaker_a": "Ada", "speaker_b": "Ben",
        "session_2_date_time": "12:05 am on 3 June, 2023",
        "session_2": [{"speaker": "Ben", "dia_id": "D2:1", "text": "The kiln is here.", "blip_caption": "a small kiln"}],
        "session_1_date_time": "1:56 pm on 8 May, 2023",
        "session_1": [
            {"speaker": "Ada", "dia_id": "D1:1", "text": "I ordered a kiln for the studio."},
            {"speaker": "Ben", "dia_id": "D1:2", "text": "Finally!"},
        ],
        "session_3_date_time": "1:00 pm on 9 June, 2023",
    },
    "qa": [
        {"question": "What did Ada order?", "answer": "a kiln", "evidence": ["D1:1"], "category": 4},
        {"question": "Who sang?", "adversarial_answer": "Ben", "evidence": [], "category": 5},
    ],
}  # fmt: skip


def written(folder: Path, content: Any) -> Path:
    path = folder / "transcript"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def lines(*items: dict[str, Any]) -> str:
    return "\n".join(json.dumps(item) for item in items) + "\n"


# --- transcripts -------------------------------------------------------------------------------------------------------


def test_jsonl_is_read_with_sessions_names_and_times_in_utc(tmp_path: Path) -> None:
    text = lines(
        {"role": "human", "content": "Hi", "timestamp": "2026-01-02T10:00:00", "name": "Ann", "session": "one"},
        {"role": "ai", "content": "Hello", "timestamp": "2026-01-02T10:00:00+02:00", "session": "one"},
        {"role": "user", "content": "Again\u2028me"},
    )
    found = read(written(tmp_path, text + "\n"))
    assert [(t.role, t.text, t.name, t.session) for t in found.turns] == [
        ("user", "Hi", "Ann", "one"), ("assistant", "Hello", None, "one"), ("user", "Again\u2028me", None, "1"),
    ]  # fmt: skip
    assert [t.when and t.when.isoformat() for t in found.turns] == [
        "2026-01-02T10:00:00+00:00", "2026-01-02T08:00:00+00:00", None,
    ]  # fmt: skip
    assert list(found.sessions()) == ["one", "1"]


def test_locomo_is_read_in_order_of_its_sessions_with_both_speakers_as_people(tmp_path: Path) -> None:
    for content in (LOCOMO, [LOCOMO]):
        found = read(written(tmp_path, content))
        assert [(t.id, t.role, t.name) for t in found.turns] == [
            ("D1:1", "user", "Ada"), ("D1:2", "user", "Ben"), ("D2:1", "user", "Ben"),
        ]  # fmt: skip
        assert found.turns[0].when is not None
        assert found.turns[0].when.isoformat() == "2023-05-08T13:56:00+00:00"
        assert found.turns[2].text == "The kiln is here. [shares a picture: a small kiln]"
        assert found.questions == (Question("What did Ada order?", "a kiln"),)


def test_of_several_conversations_one_is_chosen(tmp_path: Path) -> None:
    path = written(tmp_path, [LOCOMO, {**LOCOMO, "qa": []}])
    assert read(path).questions
    assert read(path, 2).questions == ()
    for number in (0, 3):
        with pytest.raises(UnreadableTranscript, match=f"2 conversations, there is no number {number}"):
            read(path, number)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("", "nobody says anything"),
        ('{"role": "user", "content": "a"}\n{"role": "user", "con', "line 2: not JSON"),
        ("[1]", "line 1: an object with role and content"),
        ("[" * 100_000, "line 1: not JSON"),
        (lines({"content": "a"}), "line 1: role None"),
        (lines({"role": "narrator", "content": "a"}), "line 1: role 'narrator' is none of user"),
        (lines({"role": ["user"], "content": "a"}), "line 1: role"),
        (lines({"role": "user", "content": ["a"]}), "line 1: content must be text"),
        (lines({"role": "user", "content": " "}), "line 1: content must be text"),
        (lines({"role": "user", "content": "\ud800"}), "line 1: content must be text"),
        (lines({"role": "user", "content": "a", "name": 5}), "line 1: name and session must be text"),
        (lines({"role": "user", "content": "a", "session": ["b"]}), "line 1: name and session must be text"),
        (lines({"role": "user", "content": "a", "timestamp": "noon"}), "line 1: timestamp 'noon' is not an ISO 8601 time"),
        (lines({"role": "user", "content": "a", "timestamp": 5}), "line 1: timestamp 5 is not an ISO 8601 time"),
        ({"conversation": {}}, "no session_N"),
        ({"conversation": {"session_1": [{"text": "a"}]}}, "not LoCoMo's format"),
        ({"conversation": {"session_1_date_time": "soon", "session_1": [{"text": "a"}]}}, "not LoCoMo's format"),
        ({**LOCOMO, "qa": [5]}, "not LoCoMo's format"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_said_with_its_line(tmp_path: Path, content: Any, complaint: str) -> None:
    path = written(tmp_path, content)
    with pytest.raises(UnreadableTranscript) as raised:
        read(path)
    assert str(raised.value).startswith(str(path))
    assert complaint in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_file_that_is_not_there_or_no_text_is_said(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for name, complaint in (("missing", "no such file"), ("binary", "not UTF-8"), (".", "directory")):
        with pytest.raises(UnreadableTranscript, match=complaint):
            read(tmp_path / name)


def test_the_projects_own_transcript_spans_sessions_of_several_months() -> None:
    own = read(demo.OWN)
    times = [t.when for t in own.turns if t.when]
    assert len(own.sessions()) == 5
    assert 45 <= len(own.turns) == len(times) <= 60
    assert times == sorted(times)
    assert (times[-1] - times[0]).days > 90


# --- the two processes' work, here with a small embedder -----------------------------------------------------------------


def test_the_agents_own_middleware_writes_every_turn_once(memory: MemOS) -> None:
    own = read(demo.OWN)
    demo.live(own, memory)
    demo.live(own, memory)
    found = {h.cube.origin.message_id: h.cube for h in memory.search("who said what", actor=demo.USER, k=1000)}
    assert set(found) == {t.id for t in own.turns}
    assert memory.stats(actor=demo.USER).memories == len(own.turns)
    for turn in own.turns:
        origin = found[turn.id].origin
        assert (found[turn.id].text, origin.role, origin.session) == (turn.text, turn.role, turn.session)
        assert origin.occurred_at == turn.when


def test_people_among_themselves_are_listened_to(memory: MemOS, tmp_path: Path) -> None:
    demo.live(read(written(tmp_path, LOCOMO)), memory)
    found = [h.cube for h in memory.search("kiln", actor=demo.USER)]
    assert sorted((c.origin.speaker, c.origin.role) for c in found) == [
        ("Ada", "user"),
        ("Ben", "user"),
        ("Ben", "user"),
    ]


def test_a_transcript_may_begin_and_end_with_either_side(memory: MemOS, tmp_path: Path) -> None:
    said = ["system", "assistant", "user", "user", "assistant", "tool", "assistant", "user"]
    text = lines(*({"role": role, "content": f"{role} {i}"} for i, role in enumerate(said)))
    demo.live(read(written(tmp_path, text)), memory)
    found = sorted((h.cube.origin.position, h.cube.text) for h in memory.search("all", actor=demo.USER, k=20))
    assert [t for _, t in found] == ["assistant 1", "user 2", "user 3", "assistant 4", "assistant 6", "user 7"]


def test_a_long_transcript_is_lived_session_by_session(
    memory: MemOS, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    count = 2 * (demo.LIVED_TURN_BY_TURN + 1)
    said = [{"role": ("user", "assistant")[i % 2], "content": f"turn {i}"} for i in range(count)]
    demo.live(read(written(tmp_path, lines(*said))), memory)
    assert f"{count} turns in 1 run of the agent" in capsys.readouterr().out
    found = [h.cube for h in memory.search("turn", actor=demo.USER, k=1000)]
    assert [c.text for c in sorted(found, key=lambda c: c.origin.position or 0)] == [s["content"] for s in said]


def test_an_answer_shows_what_was_recalled_the_prompt_and_who_answers(
    memory: MemOS, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    demo.live(read(written(tmp_path, LOCOMO)), memory)
    before = memory.stats(actor=demo.USER).memories
    demo.answer([Question("What did Ada order, a kiln?", "a kiln")], memory, None)
    shown = capsys.readouterr().out
    assert "2023-05-08 13:56  Ada: I ordered a kiln for the studio." in shown
    assert "why: words" in shown
    assert "| - [2023-05-08 13:56] Ada: I ordered a kiln for the studio." in shown
    assert "human | What did Ada order, a kiln?" in shown
    assert "stand-in, no language model" in shown
    assert "the file's own answer: a kiln" in shown
    assert "\033" not in shown
    assert memory.stats(actor=demo.USER).memories == before


def test_an_empty_store_is_no_mishap(memory: MemOS, capsys: pytest.CaptureFixture[str]) -> None:
    demo.answer([Question("Anything?")], memory, None)
    assert "it has no memory to repeat" in capsys.readouterr().out


# --- as a person runs it -------------------------------------------------------------------------------------------------


def run(*arguments: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "langchain_memos.demo", *arguments]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout, check=False)


def time_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_the_demo_remembers_across_processes_within_a_minute() -> None:
    pytest.importorskip("sentence_transformers", reason="the demo uses the default embedder")
    began = time_of_children()
    done = run()
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert done.stdout.count("loading the embedding model") == 2
    assert "56 memories in the store" in done.stdout
    assert "Running is over for me, I swim on Tuesdays and Fridays." in done.stdout
    assert "from langchain_memos import MemOSMemory" in "".join(done.stdout.splitlines()[-3:])
    assert time_of_children() - began < 60  # of computing: the machine may be busy with other things


def test_a_transcript_and_a_store_of_ones_own(tmp_path: Path) -> None:
    pytest.importorskip("sentence_transformers", reason="the demo uses the default embedder")
    path = written(
        tmp_path, lines({"role": "user", "content": "My bicycle is green.", "timestamp": "2026-01-02T10:00:00"})
    )
    store = tmp_path / "store"
    done = run("--transcript", str(path), "--store", str(store), "--ask", "What colour is my bicycle?")
    assert done.returncode == 0, done.stderr
    assert "2026-01-02 10:00  user: My bicycle is green." in done.stdout
    assert str(store) in done.stdout.splitlines()[-1]
    assert store.is_dir()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--transcript", "missing.jsonl"], "demo: missing.jsonl: no such file"),
        (["--ask", " "], "demo: --ask: there is no question"),
        (["--model", "no-such-model"], "demo: --model no-such-model: "),
        (["--colour"], "unrecognized arguments: --colour"),
    ],
)
def test_what_a_caller_can_mend_is_one_line_and_status_2(arguments: list[str], complaint: str) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert complaint in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_a_store_that_cannot_be_opened_is_one_line_and_status_2(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no store")
    done = run("--store", str(tmp_path / "file"))
    assert done.returncode == 2
    assert done.stderr.startswith("demo: ")
    assert len(done.stderr.splitlines()) == 1


def test_help_says_how_times_without_an_offset_are_taken() -> None:
    done = run("--help")
    assert done.returncode == 0
    assert "UTC" in done.stdout
    assert "--process" not in done.stdout


def test_interrupting_is_clean() -> None:
    command = [sys.executable, "-m", "langchain_memos.demo"]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    with child:
        assert child.stdout is not None
        assert child.stderr is not None
        child.stdout.readline()
        os.killpg(child.pid, signal.SIGINT)
        assert child.wait(timeout=60) == 130
        assert child.stderr.read() == ""
