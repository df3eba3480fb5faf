"""Ranking: what it prefers, what it is indifferent to, and what it survives. All examples are our own."""

import zlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memos_core.errors import InvalidArgument
from memos_core.recall import ASKING, Corpus, Passage, Question, rank, tokenize

START = datetime(2024, 3, 1, 9, tzinfo=UTC)
WIDTH = 64


def embed(text):
    """A bag of words thrown into 64 dimensions: near where words are shared, and the same on every machine."""
    vector = np.full(WIDTH, 0.05, np.float32)
    for token in tokenize(text):
        seed = zlib.crc32(token.encode())
        vector += np.random.default_rng(seed).normal(size=WIDTH).astype(np.float32)
    return vector / np.linalg.norm(vector)


def note(id, text, **facts):
    return Passage(id, text, embed(text), **facts)


def ask(text, **facts):
    return Question(text, embed(text), **facts)


def talk(session, *turns, day=0):
    """Turns of (speaker, text) with ids session/position."""
    return [
        Passage(
            f"{session}/{i}",
            text,
            embed(f"{speaker}: {text}"),
            speaker,
            session,
            i,
            START + timedelta(days=day, minutes=i),
        )
        for i, (speaker, text) in enumerate(turns)
    ]


def ids(found):
    return [one.id for one in found]


GARDEN = talk(
    "garden",
    ("Ines", "Hello Otto, how was your weekend?"),
    ("Otto", "I planted tomatoes and a fig tree behind the shed."),
    ("Ines", "Lovely! Which tools did you use for the fig tree?"),
    ("Otto", "Only my grandfather's old spade."),
    ("Ines", "Wow, great!"),
)
MUSIC = talk(
    "music",
    ("Otto", "Guess what, the choir accepted me as a tenor yesterday."),
    ("Ines", "Congratulations! When is the first concert of the choir?"),
    ("Otto", "In June, at the harbour."),
    ("Ines", "I bought a cello last week and practise every evening."),
    ("Otto", "A cello, how elegant."),
    day=30,
)
TALK = GARDEN + MUSIC


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Paintings", "painting"),
        ("adopted", "adoption"),
        ("stories", "story"),
        ("Ines's", "ines"),
        ("CAFÉ", "cafe"),
        ("O’Neill", "o'neill"),
        ("running", "runs"),
        ("Straße", "STRASSE"),
    ],
)
def test_forms_of_one_word_are_one_token(one, other):
    assert tokenize(one) == tokenize(other)


def test_unspaced_scripts_become_bigrams_and_mixed_runs_keep_their_latin_part():
    assert tokenize("東京都") == ["東京", "京都"]
    assert tokenize("茶") == ["茶"]
    assert tokenize("GPT東京") == ["gpt", "東京"]
    assert tokenize("... !!!") == []


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=60))
def test_any_text_can_be_tokenized_stored_and_asked(text):
    corpus = Corpus([note("a", "the lighthouse keeper"), Passage("b", text, np.ones(WIDTH, np.float32))])
    found = rank(Question(text, np.ones(WIDTH, np.float32)), corpus, 5)
    assert sorted(ids(found)) == ["a", "b"]
    assert all(0 <= one.score <= 1 for one in found)


def test_words_and_meaning_bring_the_right_note_up():
    corpus = Corpus([note("fig", "A fig tree needs much sun."), note("sea", "The ferry leaves at noon.")])
    assert ids(rank(ask("When does the ferry leave?"), corpus, 1)) == ["sea"]


def test_an_answer_is_found_through_the_question_before_it():
    found = rank(ask("When is the concert of the choir?"), Corpus(TALK), 3)
    assert set(ids(found)) == {"music/0", "music/1", "music/2"}
    assert "follows a question like it" in next(one for one in found if one.id == "music/2").why


def test_the_speaker_whom_the_question_names_is_preferred():
    twins = talk("pets", ("Ines", "My favourite animal is the otter."), ("Otto", "My favourite animal is the otter."))
    for name, winner in (("Ines", "pets/0"), ("Otto", "pets/1")):
        first = rank(ask(f"What is {name}'s favourite animal?"), Corpus(twins), 2)[0]
        assert first.id == winner
        assert f"spoken by {name}" in first.why


def test_i_is_the_user_and_you_the_assistant_and_both_are_nobody():
    twins = talk("pets", ("user", "The parrot is called Coco."), ("assistant", "The parrot is called Coco."))
    twins = [replace(turn, vector=twins[0].vector) for turn in twins]
    corpus = Corpus(twins)
    assert ids(rank(ask("How did I name the parrot?"), corpus, 1)) == ["pets/0"]
    assert ids(rank(ask("How did you name the parrot?"), corpus, 1)) == ["pets/1"]
    both = rank(ask("Did I tell you the parrot's name?"), corpus, 2)
    assert not any(reason.startswith("spoken") for one in both for reason in one.why)


def test_the_time_that_the_question_names_is_preferred_and_not_required():
    visits = [note(f"v{i}", "Dinner at the pier", occurred_at=START + timedelta(days=40 * i)) for i in range(3)]
    corpus = Corpus([*visits, note("undated", "Dinner at the pier")])
    window = (START + timedelta(days=39), START + timedelta(days=41))
    found = rank(ask("Where was dinner?", window=window), corpus, 4)
    assert found[0].id == "v1"
    assert len(found) == 4
    assert rank(ask("Where was dinner?", window=(None, START)), corpus, 1)[0].id == "v0"
    assert rank(ask("Where was dinner?", window=(START + timedelta(days=70), None)), corpus, 1)[0].id == "v2"


def test_the_manner_of_asking_is_no_subject():
    asking = np.stack([embed(text) for text in ASKING])
    corpus = Corpus([note("polite", "Can you recommend some good options?"), note("boots", "I only wear cork boots.")])
    text = "Can you recommend some good boots?"
    plain, plainer = ({one.id: one.score for one in rank(ask(text, asking=x), corpus, 2)} for x in (None, asking))
    assert plainer["boots"] / plainer["polite"] > plain["boots"] / plain["polite"]


def test_a_nod_ranks_below_a_statement_in_a_conversation():
    found = ids(rank(ask("How did the weekend with the fig tree go?"), Corpus(TALK), 10))
    assert found.index("garden/1") < found.index("garden/4")


def test_coherence_is_seen_in_conversations_and_not_in_lists():
    themes = [
        "harbour ferry sailor anchor",
        "violin concert choir tenor",
        "tomato spade garden shed",
        "goal coach team cup",
    ]
    rng = np.random.default_rng(1)
    flow = [(f"p{i % 2}", " ".join(rng.permutation(themes[i // 2 % 4].split())[:3])) for i in range(200)]
    words = [word for theme in themes for word in theme.split()]
    heap = [("p", " ".join(rng.choice(words, 3))) for _ in range(200)]
    assert Corpus(talk("flow", *flow)).statistics().coherence > 0.2
    assert Corpus(talk("heap", *heap)).statistics().coherence < 0.1
    assert Corpus([note(str(i), text) for i, (_, text) in enumerate(flow)]).statistics().coherence == 0


def test_a_missing_turn_keeps_its_place():
    far = [turn for turn in GARDEN if turn.position in (0, 1)] + [replace(GARDEN[4], position=40)]
    near = Corpus([*far[:2], replace(far[2], position=2)])
    gap = Corpus(far)
    question = ask("Where was the fig tree planted?")
    score = {
        name: {one.id: one.score for one in rank(question, corpus, 9)} for name, corpus in (("n", near), ("g", gap))
    }
    assert score["n"]["garden/4"] > score["g"]["garden/4"]


def test_only_those_asked_for_are_found_and_the_others_still_inform():
    question = ask("When is the concert of the choir?")
    among = {"music/2", "garden/3"}
    found = rank(question, Corpus(TALK), 5, among=among)
    assert ids(found) == ["music/2", "garden/3"]
    assert found == [one for one in rank(question, Corpus(TALK), 10) if one.id in among]
    assert rank(question, Corpus(TALK), 5, among={"elsewhere"}) == []


def test_equal_memories_come_in_the_order_of_their_ids():
    same = [note(id, "The tea is in the blue tin.") for id in ("c", "a", "d", "b")]
    found = rank(ask("Where is the tea?"), Corpus(same), 3)
    assert ids(found) == ["a", "b", "c"]
    assert len({one.score for one in found}) == 1


@pytest.mark.parametrize("text", ["", "the of and", "?!", "zzz qqq", "Ines Otto"])
@pytest.mark.parametrize(
    "passages",
    [
        [note("only", "One memory.")],
        TALK,
        [
            Passage("zero", "nothing", np.zeros(WIDTH, np.float32)),
            Passage("nan", "x", np.full(WIDTH, np.nan, np.float32)),
        ],
        [replace(turn, position=None, occurred_at=None) for turn in TALK],
        [replace(turn, position=7) for turn in TALK],
        [replace(turn, session=None) for turn in TALK],
    ],
    ids=["one", "talk", "broken vectors", "no positions", "one position", "no sessions"],
)
def test_poor_material_still_gets_finite_ordered_scores(text, passages):
    for vector in (embed("tea"), np.zeros(WIDTH, np.float32)):
        found = rank(Question(text, vector), Corpus(passages), 100)
        scores = [one.score for one in found]
        assert len(found) == len(passages)
        assert scores == sorted(scores, reverse=True)
        assert all(0 <= score <= 1 for score in scores)


def test_nothing_is_found_where_nothing_is_or_nothing_is_wanted():
    assert rank(ask("tea"), Corpus(), 5) == []
    assert rank(ask("tea"), Corpus(TALK), 0) == []
    emptied = Corpus(TALK)
    emptied.remove([turn.id for turn in TALK])
    assert (len(emptied), rank(ask("tea"), emptied, 5)) == (0, [])


def test_statistics_of_the_whole_let_a_part_be_ranked_like_the_whole():
    fill = [note(f"n{i:03}", f"Invoice {i} for paper, paid by bank transfer") for i in range(200)]
    whole = Corpus(TALK + fill)
    question = ask("What did Otto do with the fig tree and the invoice?")
    part = rank(question, Corpus(TALK), 10, statistics=whole.statistics())
    every = [one for one in rank(question, whole, 300) if not one.id.startswith("n")]
    assert ids(part) == ids(every)
    assert [one.score for one in part] == pytest.approx([one.score for one in every], rel=0.05)
    assert ids(rank(question, Corpus(TALK), 3, statistics=Corpus().statistics())) == ids(
        rank(question, Corpus(TALK), 3)
    )


def test_statistics_outlive_the_corpus():
    corpus = Corpus(TALK)
    before = corpus.statistics()
    corpus.remove([turn.id for turn in GARDEN])
    assert before.count == len(TALK)
    assert before.frequencies["fig"] == 2
    assert corpus.statistics().frequencies.get("fig") is None


def test_a_vector_of_another_length_is_refused_and_nothing_is_lost():
    corpus = Corpus(TALK)
    with pytest.raises(InvalidArgument, match="music/0"):
        corpus.put([replace(MUSIC[0], vector=np.ones(3, np.float32))])
    assert "music/0" in corpus
    assert len(rank(ask("choir"), corpus, 99)) == len(TALK)


def test_ranking_changes_nothing():
    corpus = Corpus(TALK)
    question = ask("Who sings?")
    vector = question.vector.copy()
    assert rank(question, corpus, 5) == rank(question, corpus, 5)
    assert (question.vector == vector).all()
    assert all((turn.vector == embed(f"{turn.speaker}: {turn.text}")).all() for turn in TALK)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, len(TALK) - 1), st.sampled_from(["", " Really."])), max_size=40)
)
def test_a_changed_corpus_ranks_like_one_made_anew(steps):
    corpus, held = Corpus(), {}
    for put, index, more in steps:
        turn = replace(TALK[index], text=TALK[index].text + more)
        if put:
            corpus.put([turn])
            held[turn.id] = turn
        else:
            corpus.remove([turn.id])
            held.pop(turn.id, None)
    question = ask("When did Ines buy the cello?")
    changed, anew = rank(question, corpus, 20), rank(question, Corpus(held.values()), 20)
    assert {one.id: one.why for one in changed} == {one.id: one.why for one in anew}
    assert [one.score for one in changed] == pytest.approx([one.score for one in anew], rel=1e-3, abs=1e-6)
