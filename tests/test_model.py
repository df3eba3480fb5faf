"""A local model: what it is given, how it ends, what it is, and what it refuses."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from memos_core import ContextTooLong, InvalidArgument, LocalModel, ModelUnavailable, OutOfMemory, Unsupported
from tests.networks import byte_tokenizer, random_model, random_network

HELLO = [{"role": "system", "content": "You are kind."}, {"role": "user", "content": "Hello there."}]
USERS_ONLY = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system role here') }}{% endif %}"
    "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
)


# --- prompts --------------------------------------------------------------------------------------------------------------


def test_several_system_messages_become_one_in_front() -> None:
    model = random_model()
    said = [HELLO[0], HELLO[1], {"role": "system", "content": "Be short."}]
    assert model.prompt(said).text.count("<|im_start|>system") == 1
    assert "You are kind.\n\nBe short.<|im_end|>\n<|im_start|>user" in model.prompt(said).text


def test_a_template_without_a_system_role_gets_it_in_the_first_question() -> None:
    prompt = random_model(template=USERS_ONLY).prompt(HELLO)
    assert "<|im_start|>user\nYou are kind.\n\nHello there.<|im_end|>" in prompt.text


def test_content_may_be_blocks_of_text() -> None:
    model = random_model()
    blocks = [{"role": "user", "content": [{"type": "text", "text": "Hello "}, {"type": "text", "text": "there."}]}]
    assert model.prompt(blocks).ids == model.prompt([HELLO[1]]).ids


def test_boundaries_stand_behind_lines_and_messages() -> None:
    prompt = random_model().prompt(HELLO)
    ends = {prompt.text[: prompt.starts[b] if b < len(prompt.ids) else None][-1] for b in prompt.boundaries}
    assert ends <= {"\n", ">"}
    assert prompt.text[: prompt.starts[prompt.stable]].rstrip().endswith("You are kind.<|im_end|>")


def test_a_tools_arguments_reach_the_template_as_an_object() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "look", "arguments": '{"at": "Zürich"}'}}
    said = [HELLO[1], {"role": "assistant", "content": "", "tool_calls": [call]}]
    assert '"arguments": {"at": "Z' in random_model().prompt(said).text


@pytest.mark.parametrize(
    "said",
    [
        [],
        ["hello"],
        [{"content": "x"}],
        [{"role": "user", "content": 7}],
        [{"role": "user", "content": [{"type": "image"}]}],
    ],
)
def test_what_is_no_message_is_refused(said: Any) -> None:
    with pytest.raises(InvalidArgument, match="messages"):
        random_model().prompt(said)


def test_arguments_that_are_no_json_are_refused() -> None:
    call = {"function": {"name": "look", "arguments": "{at"}}
    with pytest.raises(InvalidArgument, match="no JSON"):
        random_model().prompt([HELLO[1], {"role": "assistant", "content": "", "tool_calls": [call]}])


def test_without_a_template_messages_are_refused_and_tokens_are_not() -> None:
    model = random_model(template=None)
    with pytest.raises(Unsupported, match="no chat template"):
        model.generate(HELLO)
    assert model.generate(model.encode("Hello"), max_tokens=2).usage.output == 2


def test_an_empty_text_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="no token"):
        random_model().encode("")


# --- answers --------------------------------------------------------------------------------------------------------------


def test_the_same_seed_draws_the_same_and_another_does_not() -> None:
    model = random_model()
    drawn = [model.generate(HELLO, temperature=1.5, seed=s, max_tokens=20, keep=False).ids for s in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_a_stop_string_ends_the_answer_and_is_not_part_of_it() -> None:
    model = random_model()
    whole = model.generate(HELLO, max_tokens=30, keep=False).text
    stop = whole[8:11]
    cut = model.generate(HELLO, max_tokens=30, keep=False, stop=stop)
    assert cut.text == whole[: whole.index(stop)]
    assert cut.finish == "stop"
    assert "".join(model.stream(HELLO, max_tokens=30, keep=False, stop=[stop])) == cut.text


def test_an_answer_ends_at_its_length() -> None:
    made = random_model().generate(HELLO, max_tokens=5)
    assert (made.finish, made.usage.output, len(made.ids)) == ("length", 5, 5)


def test_top_k_of_one_is_the_likeliest() -> None:
    model = random_model()
    greedy = model.generate(HELLO, max_tokens=10, keep=False)
    assert model.generate(HELLO, max_tokens=10, keep=False, temperature=1.0, top_k=1, seed=3).ids == greedy.ids


@pytest.mark.parametrize(
    "wrong",
    [{"max_tokens": 0}, {"temperature": float("nan")}, {"temperature": -1}, {"top_p": 0}, {"top_p": 2}, {"top_k": -1},
     {"stop": [""]}, {"stop": [3]}, {"seed": "x"}, {"repetition_penalty": 0}, {"best_of": 3}],
)  # fmt: skip
def test_settings_that_cannot_be_are_refused_by_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument, match=next(iter(wrong))):
        random_model().generate(HELLO, **wrong)


def test_what_does_not_fit_the_window_is_refused_before_it_is_run() -> None:
    with pytest.raises(ContextTooLong, match="window of 4096"):
        random_model().generate([{"role": "user", "content": "x" * 5000}], max_tokens=5)
    with pytest.raises(ContextTooLong):
        random_model().generate(HELLO, max_tokens=4096)


def test_threads_answer_as_one_does() -> None:
    model = random_model()
    said = [[{"role": "user", "content": f"Question number {i}."}] for i in range(4)]
    alone = [model.generate(s, max_tokens=6, keep=False).ids for s in said]
    found: dict[int, Any] = {}
    threads = [
        threading.Thread(target=lambda i=i: found.update({i: model.generate(said[i], max_tokens=6).ids}))
        for i in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[i] for i in range(4)] == alone


# --- a device without room --------------------------------------------------------------------------------------------------


class Narrow(torch.nn.Module):
    """A network that has no room while anything is held in its cache, or ever."""

    def __init__(self, network: Any, *, ever: bool) -> None:
        super().__init__()
        self.inner = network
        self.ever = ever
        self.narrow = False
        self.config, self.generation_config, self.dtype, self.device = (
            network.config, network.generation_config, network.dtype, network.device,
        )  # fmt: skip

    def forward(self, **inputs: Any) -> Any:
        if self.narrow and (
            self.ever or (inputs["past_key_values"].get_seq_length() and inputs["input_ids"].shape[1] > 1)
        ):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return self.inner(**inputs)


def test_without_room_for_what_is_held_the_prompt_is_run_whole() -> None:
    network = Narrow(random_network(), ever=False)
    model = LocalModel.of(network, byte_tokenizer())
    whole = model.generate(HELLO, max_tokens=4)
    network.narrow = True
    longer = [*HELLO, {"role": "assistant", "content": "Yes?"}, {"role": "user", "content": "Tell me more."}]
    made = model.generate(longer, max_tokens=4)
    assert "no room left" in made.trouble
    assert made.usage.cached == 0
    network.narrow = False
    assert made.ids == model.generate(longer, max_tokens=4, keep=False, tenant=("other",)).ids
    assert whole.trouble == ""


def test_without_any_room_it_is_an_error_of_ours() -> None:
    network = Narrow(random_network(), ever=True)
    model = LocalModel.of(network, byte_tokenizer())
    assert model.reuses_blocks
    network.narrow = True
    with pytest.raises(OutOfMemory, match="no room left"):
        model.generate(HELLO)


# --- what it is -------------------------------------------------------------------------------------------------------------


def test_a_fingerprint_knows_weights_template_type_and_tokenizer() -> None:
    first = random_model().fingerprint
    assert random_model().fingerprint == first
    others = [
        random_model(seed=1), random_model("llama"), random_model(template=USERS_ONLY),
        LocalModel.of(random_network(seed=5).to(torch.bfloat16), byte_tokenizer()),
    ]  # fmt: skip
    assert len({first, *(m.fingerprint for m in others)}) == 5


def test_one_weights_last_bit_is_another_model() -> None:
    network = random_network(seed=6)
    first = LocalModel.of(network, byte_tokenizer()).fingerprint
    with torch.no_grad():
        flat = network.model.layers[1].mlp.up_proj.weight.view(torch.int32).flatten()
        flat[-1] ^= 1
    second = LocalModel.of(network, byte_tokenizer()).fingerprint
    assert first.split("/w=")[0] == second.split("/w=")[0]
    assert first != second


def test_a_saved_model_is_the_same_model(tmp_path: Path) -> None:
    random_network().save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    saved = LocalModel(tmp_path, device="cpu")
    assert saved.generate(HELLO, max_tokens=5).ids == random_model().generate(HELLO, max_tokens=5).ids
    assert saved.fingerprint.split("/")[3] == random_model().fingerprint.split("/")[3]  # the weights


def test_a_model_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match="nowhere"):
        LocalModel(tmp_path / "nowhere")
    with pytest.raises(InvalidArgument, match="name_or_path"):
        LocalModel("")
    with pytest.raises(InvalidArgument, match="dtype"):
        LocalModel(tmp_path, dtype="int8")
    for none_here in ("abacus", "cuda:99"):  # which no machine has, one without a GPU least of all
        with pytest.raises(InvalidArgument, match=f"device: '{none_here}' is none"):
            LocalModel(tmp_path, device=none_here)
    with pytest.raises(InvalidArgument, match="cache_bytes"):
        random_model(cache_bytes=-1)


def test_a_model_whose_tokenizer_is_missing_is_named(tmp_path: Path) -> None:
    random_network().save_pretrained(tmp_path)  # transformers then makes an empty tokenizer without a word
    with pytest.raises(ModelUnavailable, match="tokenizer"):
        LocalModel(tmp_path)
