"""Adapters beside a network: what a pass with one is, that nothing is left of it, what stays resident; weights as bytes, adopted, fused."""

from __future__ import annotations

import copy
import json
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from memos_core import InvalidArgument, LocalModel, ModelMismatch, OutOfMemory, Unsupported
from memos_core.errors import Damaged
from memos_core.fusion import cat, roughly
from memos_core.lora import LoRA, adopted, linears, made, packed, unpacked
from memos_core.parametric import Adapters, Twin
from memos_core.units import shape
from tests.networks import random_model

TEXT = "The colour of house 3 is"


@pytest.fixture(scope="module")
def model() -> LocalModel:
    return random_model()


def some_lora(model: LocalModel, seed: int, *, rank: int = 4, ends: tuple[str, ...] = ("",)) -> LoRA:
    draw = torch.Generator().manual_seed(seed)
    chosen = {n: m for n, m in linears(model.network).items() if n.endswith(ends)}
    return made(
        model.fingerprint,
        {n: (torch.randn(rank, m.in_features, generator=draw) * 0.2, torch.randn(m.out_features, rank, generator=draw) * 0.2)
         for n, m in chosen.items()},
    )  # fmt: skip


def logits(model: LocalModel, text: str = TEXT) -> torch.Tensor:
    return model.forward(model.encode(text).ids, model.cache())


def merged(model: LocalModel, *loras: LoRA) -> torch.Tensor:
    """The logits of a network whose weights have the adapters added."""
    network = copy.deepcopy(model.network)
    with torch.no_grad():
        for lora in loras:
            for module in lora.targets:
                a, b = lora.pair(module)
                network.get_submodule(module).weight += b @ a
        return network(input_ids=torch.tensor([model.encode(TEXT).ids])).logits[:, -1]  # type: ignore[no-any-return]


def test_a_pass_with_an_adapter_is_one_with_its_product_added_to_the_weights(model: LocalModel) -> None:
    lora = some_lora(model, 1)
    with Adapters(model).used(lora):
        found = logits(model)
    assert torch.allclose(found, merged(model, lora), atol=1e-4)
    assert not torch.allclose(found, logits(model), atol=1e-2)


def test_off_again_the_logits_are_the_same_to_the_bit_and_the_network_is_as_it_was(model: LocalModel) -> None:
    names = [(n, type(m)) for n, m in model.network.named_modules()]
    wants = [p.requires_grad for p in model.network.parameters()]
    before = logits(model)
    torch.manual_seed(3)
    chance = torch.rand(1)
    torch.manual_seed(3)
    adapters = Adapters(model)

    def broken() -> None:
        with adapters.used(some_lora(model, 1)):
            logits(model)
            raise KeyError

    with pytest.raises(KeyError):
        broken()
    assert torch.equal(logits(model), before)
    assert torch.equal(torch.rand(1), chance)
    assert [(n, type(m)) for n, m in model.network.named_modules()] == names
    assert [p.requires_grad for p in model.network.parameters()] == wants
    assert "forward" not in vars(model.network)
    assert random_model().fingerprint == model.fingerprint


def test_the_twin_has_no_weights_of_its_own(model: LocalModel) -> None:
    twin = Twin(model.network)
    mine = {n: p.data_ptr() for n, p in model.network.named_parameters()}
    assert {n: p.data_ptr() for n, p in twin.network.named_parameters()} == mine
    assert not any(p is q for p in model.network.parameters() for q in twin.network.parameters())


def test_adapters_add_up_where_blocks_are_nested(model: LocalModel) -> None:
    first, second = some_lora(model, 1), some_lora(model, 2)
    adapters = Adapters(model)
    with adapters.used(first), adapters.used(second):
        both = logits(model)
    assert torch.allclose(both, merged(model, first, second), atol=1e-4)
    with adapters.used(cat([first, second])):
        assert torch.allclose(logits(model), both, atol=1e-4)


def test_each_row_of_a_batch_has_its_own(model: LocalModel) -> None:
    first, second = some_lora(model, 1), some_lora(model, 2)
    adapters = Adapters(model)
    asked = model.encode(TEXT)
    with adapters.used_each([second, None, first]):
        together = model.generate_batch([asked] * 3, max_tokens=6)
    alone = []
    for lora in (second, None, first):
        if lora is None:
            alone.append(model.generate(asked, max_tokens=6).ids)
            continue
        with adapters.used(lora):
            alone.append(model.generate(asked, max_tokens=6).ids)
    assert [found.ids for found in together] == alone
    assert len(set(alone)) == 3
    with adapters.used_each([None, None]):
        assert model.generate_batch([asked] * 2, max_tokens=6)[0].ids == alone[1]


def two_rows(model: LocalModel) -> torch.Tensor:
    return model.forward(torch.tensor([list(model.encode(TEXT).ids)] * 2), model.cache())


@pytest.mark.parametrize("order", ["within", "around", "twice"])
def test_adapters_of_rows_and_of_all_rows_are_not_mixed_in_silence(model: LocalModel, order: str) -> None:
    lora, other = some_lora(model, 1), some_lora(model, 2)
    adapters = Adapters(model)
    whole, rows = adapters.used(lora), adapters.used_each([other, None])
    outer, inner = {"within": (whole, rows), "around": (rows, whole), "twice": (rows, adapters.used_each([None, lora]))}[order]  # fmt: skip
    with outer, inner, pytest.raises(InvalidArgument, match="rows of a batch"):
        two_rows(model)
    with adapters.used(lora), adapters.used_each([None, None]):  # which add nothing
        assert torch.allclose(two_rows(model), merged(model, lora), atol=1e-4)
    with adapters.used_each([lora, None]):
        assert torch.allclose(two_rows(model)[:1], merged(model, lora), atol=1e-4)


@pytest.mark.parametrize("seed", [None, 1])
def test_a_batch_of_other_than_so_many_rows_is_refused(model: LocalModel, seed: int | None) -> None:
    lora = None if seed is None else some_lora(model, seed)
    with (
        Adapters(model).used_each([lora, None, None]),
        pytest.raises(InvalidArgument, match="3 were given for a batch of 2"),
    ):
        two_rows(model)
    assert not model.network._forward_pre_hooks


def test_a_pass_is_of_one_set_of_adapters(model: LocalModel) -> None:
    first, second = Adapters(model).used(some_lora(model, 1)), Adapters(model).used(some_lora(model, 2))
    with first, second, pytest.raises(InvalidArgument, match="two `Adapters`"):
        logits(model)


def test_keys_and_values_are_never_shared_between_adapters(model: LocalModel) -> None:
    adapters, asked = Adapters(model), model.encode("Nobody else's words. " * 8)
    uses = []
    for lora in (None, some_lora(model, 1), some_lora(model, 2), None, some_lora(model, 1)):
        if lora is None:
            uses.append(model.generate(asked, max_tokens=2).usage.cached)
        else:
            with adapters.used(lora):
                uses.append(model.generate(asked, max_tokens=2).usage.cached)
    assert uses[:3] == [0, 0, 0]
    assert min(uses[3:]) > 100


def test_an_answer_begun_with_an_adapter_ends_with_it_and_others_never_see_it(model: LocalModel) -> None:
    adapters, asked = Adapters(model), model.encode(TEXT)
    plain = model.generate(asked, max_tokens=8).ids
    with adapters.used(some_lora(model, 1)):
        whole = model.generate(asked, max_tokens=8).ids
        pieces = model.stream(asked, max_tokens=8)
        next(pieces)
    found: list[Any] = []
    other = threading.Thread(target=lambda: found.append(model.generate(asked, max_tokens=8).ids))
    other.start()
    other.join()
    assert found == [plain]
    ended: list[Any] = []

    def rest() -> Any:
        ended.append((yield from pieces))

    list(rest())
    assert ended[0].ids == whole


def test_those_resident_stay_within_their_bytes_and_come_back(model: LocalModel) -> None:
    loras = [some_lora(model, seed) for seed in (1, 2, 3)]
    alone = []
    for lora in loras:
        with Adapters(model).used(lora):
            alone.append(logits(model))
    adapters = Adapters(model, 2 * loras[0].bytes)
    for turn in (0, 1, 2, 1, 0, 2):
        with adapters.used(loras[turn]):
            assert torch.equal(logits(model), alone[turn])
        assert sum(adapters.held.values()) <= 2 * loras[0].bytes
    assert list(adapters.held) == [loras[0].digest, loras[2].digest]
    assert adapters.drop([loras[0].digest, "never there"]) == loras[0].bytes
    assert list(adapters.held) == [loras[2].digest]
    with pytest.raises(OutOfMemory):
        Adapters(model, loras[0].bytes - 1).change(loras[0])


def test_what_is_in_use_is_not_let_go(model: LocalModel) -> None:
    first, second = some_lora(model, 1), some_lora(model, 2)
    adapters = Adapters(model, first.bytes)
    with adapters.used(first), adapters.used(second), pytest.raises(OutOfMemory, match="2 are used at once"):
        logits(model)
    assert list(adapters.held) == [first.digest]
    for lora in (second, first):
        with adapters.used(lora):
            assert torch.allclose(logits(model), merged(model, lora), atol=1e-4)


def test_modules_that_only_some_adapters_change(model: LocalModel) -> None:
    first, second = some_lora(model, 1, ends=("q_proj", "v_proj")), some_lora(model, 2, rank=2, ends=("down_proj",))
    adapters = Adapters(model)
    with adapters.used(second), adapters.used(first):
        assert torch.allclose(logits(model), merged(model, first, second), atol=1e-4)
    whole = cat([first, second])
    assert whole.targets == tuple(sorted((*first.targets, *second.targets)))
    with adapters.used(whole):
        assert torch.allclose(logits(model), merged(model, first, second), atol=1e-4)


def test_another_models_adapter_is_refused(model: LocalModel) -> None:
    other = random_model(seed=1)
    with pytest.raises(ModelMismatch, match="weights"):
        Adapters(model).change(some_lora(other, 1))
    with pytest.raises(ModelMismatch):
        cat([some_lora(model, 1), some_lora(other, 1)])


def test_a_network_spread_over_devices_is_refused() -> None:
    model = random_model(seed=2)
    module = next(iter(linears(model.network).values()))
    module._hf_hook = object()
    try:
        with pytest.raises(Unsupported, match="devices"):
            Twin(model.network)
    finally:
        del module._hf_hook


def test_a_network_that_peft_has_wrapped_is_refused(model: LocalModel) -> None:
    import peft

    network = copy.deepcopy(model.network)
    peft.LoraModel(network, peft.LoraConfig(r=4, target_modules=["q_proj"]), "default")
    wrapped = LocalModel.of(network, model.tokenizer, name="wrapped")
    lora = made(wrapped.fingerprint, {m: some_lora(model, 1).pair(m) for m in some_lora(model, 1).targets})
    for refused in (lambda: Adapters(wrapped).change(lora), lambda: Twin(wrapped.network), lambda: shape(wrapped)):
        with pytest.raises(Unsupported, match="merge"):
            refused()


# --- bytes -------------------------------------------------------------------------------------------------------------------


def test_packed_and_unpacked_is_the_same(model: LocalModel) -> None:
    lora = some_lora(model, 1)
    again = unpacked(model.fingerprint, packed(lora), "here")
    assert again.digest == lora.digest
    assert again.rank == 4
    assert all(torch.equal(again.tensors[n], t) for n, t in lora.tensors.items())


@pytest.mark.parametrize("harm", ["flipped length", "no tensors", "half"])
def test_bytes_that_hold_no_adapter_are_damage(model: LocalModel, harm: str) -> None:
    body = packed(some_lora(model, 1))
    broken = {"flipped length": b"\xff" + body[1:], "no tensors": b"", "half": body[: len(body) // 2]}[harm]
    with pytest.raises(Damaged, match="here"):
        unpacked(model.fingerprint, broken, "here")


def test_numbers_that_are_none_are_refused(model: LocalModel) -> None:
    lora = some_lora(model, 1)
    pairs = {m: lora.pair(m) for m in lora.targets}
    module = lora.targets[0]
    with pytest.raises(InvalidArgument, match="finite"):
        made(model.fingerprint, {**pairs, module: (pairs[module][0] * float("nan"), pairs[module][1])})
    with pytest.raises(InvalidArgument, match="no module"):
        made(model.fingerprint, {})


# --- adopted -----------------------------------------------------------------------------------------------------------------


def saved(folder: Path, lora: LoRA, **config: Any) -> Path:
    folder.mkdir()
    save_file(dict(lora.tensors), folder / "adapter_model.safetensors")
    said = {
        "peft_type": "LORA",
        "r": lora.rank,
        "lora_alpha": lora.rank,
        "bias": "none",
        "base_model_name_or_path": "somebody/model",
    }
    (folder / "adapter_config.json").write_text(json.dumps({**said, **config}))
    return folder


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"use_rslora": True},
        {"alpha_pattern": {"q_proj": 32}},
        {"alpha_pattern": {r"layers\.1\..*q_proj": 64, ".*down_proj": 32}},
        {"alpha_pattern": {"^model.layers.1.self_attn.q_proj": 64, "q_proj": 1}},
        {"alpha_pattern": {r".*\.(q|down)_proj": 48, "q_proj": 1}},
        {"rank_pattern": {r"layers\.1\..*q_proj": 2}, "alpha_pattern": {"down_proj": 20}},
    ],
)
def test_what_peft_saved_is_adopted_with_its_scaling(model: LocalModel, tmp_path: Path, config: dict[str, Any]) -> None:
    import peft

    torch.manual_seed(0)
    how = peft.LoraConfig(r=4, lora_alpha=12, target_modules=["q_proj", "down_proj"], init_lora_weights=False, **config)
    theirs = peft.LoraModel(copy.deepcopy(model.network), how, "default").eval()
    with torch.no_grad():
        wanted = theirs(input_ids=torch.tensor([model.encode(TEXT).ids])).logits[:, -1]
    named = theirs.named_parameters()
    tensors = {f"base_model.{n}".replace(".default", ""): p.detach().clone() for n, p in named if "lora_" in n}
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    how.save_pretrained(tmp_path)
    lora, _ = adopted(tmp_path, model)
    with Adapters(model).used(lora):
        assert torch.allclose(logits(model), wanted, atol=1e-3)


def test_the_name_of_its_model_is_told(model: LocalModel, tmp_path: Path) -> None:
    assert adopted(saved(tmp_path / "a", some_lora(model, 1)), model)[1] == "somebody/model"


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({"peft_type": "IA3"}, "IA3"),
        ({"use_dora": True}, "use_dora"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"bias": "all"}, "bias"),
        ({"r": 8}, "rank 4"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights.*pissa"),
        ({"init_lora_weights": "olora"}, "olora"),
        ({"init_lora_weights": "loftq"}, "loftq"),
        ({"init_lora_weights": ["gaussian"]}, "init_lora_weights"),
        ({"alora_invocation_tokens": [1, 2]}, "alora_invocation_tokens"),
        ({"layer_replication": [[0, 2], [1, 2]]}, "layer_replication"),
        ({"use_bdlora": {"nblocks": 2}}, "use_bdlora"),
        ({"kasa_config": {"beta": 1e-4}}, "kasa_config"),
        ({"a_field_of_tomorrow": 1}, "a_field_of_tomorrow"),
    ],
)
def test_what_is_no_plain_lora_is_refused(model: LocalModel, tmp_path: Path, config: dict[str, Any], why: str) -> None:
    with pytest.raises(InvalidArgument, match=why):
        adopted(saved(tmp_path / "a", some_lora(model, 1), **config), model)


@pytest.mark.parametrize(
    "config",
    [
        {"init_lora_weights": "gaussian", "lora_dropout": 0.1, "task_type": "CAUSAL_LM", "target_modules": ["q_proj"]},
        {"init_lora_weights": "eva", "eva_config": {"rho": 2.0}, "peft_version": "0.21.2", "a_field_of_tomorrow": None},
    ],
)
def test_what_says_nothing_of_a_pass_is_let_be(model: LocalModel, tmp_path: Path, config: dict[str, Any]) -> None:
    lora = some_lora(model, 1)
    assert adopted(saved(tmp_path / "a", lora, **config), model)[0].digest == lora.digest


@pytest.mark.parametrize(
    ("config", "why"),
    [
        *(({"r": r}, "r of model|rank 4") for r in (None, "4", True, -4, 0, 1e300, [4])),
        *(({"lora_alpha": alpha}, "lora_alpha") for alpha in (None, "much", True, float("nan"), float("inf"), 10**400)),
        ({"alpha_pattern": ["q_proj"]}, "alpha_pattern"),
        ({"rank_pattern": "q_proj"}, "rank_pattern"),
        ({"alpha_pattern": {"q_proj": None}}, "lora_alpha"),
        ({"alpha_pattern": {"(": 1}}, "no pattern"),
        ({"alpha_pattern": {"a{99999999999}": 1}}, "no pattern"),
        ({"alpha_pattern": {"([a-z_.0-9]+)+X": 1}}, "too intricate"),
        ({"use_rslora": "no"}, "use_rslora"),
        ({"base_model_name_or_path": ["a"]}, "base_model_name_or_path"),
        ({"base_model_name_or_path": "\ud800"}, "base_model_name_or_path"),
        ({"peft_type": ["LORA"]}, "not known"),
        ({"auto_mapping": "x" * (1 << 20)}, "bytes"),
    ],
)
def test_values_that_are_none_are_named(model: LocalModel, tmp_path: Path, config: dict[str, Any], why: str) -> None:
    with pytest.raises(InvalidArgument, match=f"(?s)adapter_(config.json|model.safetensors): .*({why})"):
        adopted(saved(tmp_path / "a", some_lora(model, 1), **config), model)


@pytest.mark.parametrize("body", [b"[1]", b"\xff\xfe{}", b"[" * 100_000, b""])
def test_a_configuration_that_is_no_object_is_damage(model: LocalModel, tmp_path: Path, body: bytes) -> None:
    folder = saved(tmp_path / "a", some_lora(model, 1))
    (folder / "adapter_config.json").write_bytes(body)
    with pytest.raises(Damaged, match="adapter_config"):
        adopted(folder, model)


ODD = {
    "no shape": (torch.tensor(1.0), torch.zeros(64, 4)),
    "rank 0": (torch.zeros(0, 64), torch.zeros(64, 0)),
    "no B": (torch.zeros(4, 64), None),
    "no A": (None, torch.zeros(64, 4)),
    **{str(t): (torch.ones(4, 64, dtype=t), torch.ones(64, 4, dtype=t)) for t in (torch.int8, torch.bool, torch.complex64, torch.float8_e4m3fn)},
}  # fmt: skip


@pytest.mark.parametrize("odd", ODD)
def test_tensors_that_are_no_lora_are_named(model: LocalModel, tmp_path: Path, odd: str) -> None:
    folder, name = saved(tmp_path / "a", some_lora(model, 1)), "base_model.model.model.layers.0.self_attn.q_proj.lora_"
    pair = {f"{name}{k}.weight": t for k, t in zip("AB", ODD[odd], strict=True) if t is not None}
    save_file(pair, folder / "adapter_model.safetensors")
    with pytest.raises(InvalidArgument, match=r"adapter_model.safetensors: .*(q_proj|modules)"):
        adopted(folder, model)
    with pytest.raises(Damaged, match=r"here: .*(q_proj|modules)"):
        unpacked(model.fingerprint, (folder / "adapter_model.safetensors").read_bytes(), "here")


def test_a_file_larger_than_any_adapter_is_not_read(model: LocalModel, tmp_path: Path) -> None:
    folder = saved(tmp_path / "a", some_lora(model, 1))
    with (folder / "adapter_model.safetensors").open("r+b") as file:
        file.truncate(1 << 40)
    with pytest.raises(InvalidArgument, match="bytes"):
        adopted(folder, model)


def test_pickled_weights_are_not_read(model: LocalModel, tmp_path: Path) -> None:
    folder = saved(tmp_path / "a", some_lora(model, 1))
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(InvalidArgument, match="pickled"):
        adopted(folder, model)


def test_modules_and_shapes_that_the_model_does_not_have_are_refused(model: LocalModel, tmp_path: Path) -> None:
    lora = some_lora(model, 1)
    a, b = lora.pair(lora.targets[0])
    strange = made(model.fingerprint, {"model.layers.9.self_attn.q_proj": (a, b)})
    with pytest.raises(InvalidArgument, match=r"layers\.9"):
        adopted(saved(tmp_path / "a", strange), model)
    wide = made(model.fingerprint, {lora.targets[0]: (torch.randn(4, 99), b)})
    with pytest.raises(InvalidArgument, match="99"):
        adopted(saved(tmp_path / "b", wide), model)


def test_a_damaged_folder_is_damage(model: LocalModel, tmp_path: Path) -> None:
    folder = saved(tmp_path / "a", some_lora(model, 1))
    (folder / "adapter_config.json").write_text("{")
    with pytest.raises(Damaged, match=r"adapter_config"):
        adopted(folder, model)


# --- fused roughly -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["linear", "ties", "svd", "dare_ties"])
def test_rough_methods_keep_the_rank_and_disturb_nobodys_chance(model: LocalModel, method: Any) -> None:
    first, second = some_lora(model, 1), some_lora(model, 2)
    torch.manual_seed(3)
    chance = torch.rand(1)
    torch.manual_seed(3)
    fused = roughly(model, [first, second], method)
    again = roughly(model, [first, second], method)
    assert torch.equal(torch.rand(1), chance)
    assert fused.rank == 4
    assert fused.digest == again.digest
    with Adapters(model).used(fused):
        assert not torch.allclose(logits(model), merged(model, first, second), atol=1e-3)


def test_what_cannot_be_fused_is_refused(model: LocalModel) -> None:
    first = some_lora(model, 1)
    with pytest.raises(InvalidArgument, match="two or more"):
        cat([first])
    with pytest.raises(InvalidArgument, match="one rank"):
        roughly(model, [first, some_lora(model, 2, rank=2)], "linear")
    with pytest.raises(InvalidArgument, match="none of"):
        roughly(model, [first, first], "magic")  # type: ignore[arg-type]
