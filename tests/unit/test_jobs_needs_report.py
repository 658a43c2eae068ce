"""What ``bridge doctor`` says of a suite's memory, and what is refused before it is queued."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from bridge.jobs.needs import predict
from bridge.jobs.needs.devices import CPU, device
from bridge.jobs.needs.report import kinds_of_runs, prediction_text, refusals
from bridge.jobs.needs.rows import rows_of
from bridge.jobs.needs.shapes import shape_of
from bridge.plan.grid import Plan, load_plan
from bridge.store.records import file_hash
from bridge.store.settings import LocalModel, ShardingConfig


@pytest.fixture(scope="module")
def paper(root: Path) -> Plan:
    return load_plan("paper", root=root)


def test_the_table_has_each_kind_of_run_once_with_its_peak(paper: Plan) -> None:
    text = prediction_text(paper, device("h200"))
    for name, specs in kinds_of_runs(paper).items():
        assert len(specs) == 3
        (line,) = (row for row in text.splitlines() if row.startswith(f"{name} "))
        peak = predict(specs[0], device("h200")).memory_gib["total"]
        assert float(line.removeprefix(name).split()[0]) == pytest.approx(peak, abs=0.05)
        assert line.endswith(" x 3")
    assert re.search(r"all 189 runs: \d+ device-hours of h200", text)


def test_without_a_device_there_are_no_hours(paper: Plan) -> None:
    text = prediction_text(paper, None)
    assert "no device named" in text and "device-hours" not in text


def test_a_refusal_names_the_run_its_need_and_a_remedy(paper: Plan) -> None:
    said = {s.split(" ")[0]: s for s in refusals(paper, device("h100-80gb"))}
    assert "qwen2.5-3b/limr/bridge" not in said
    sentence = said["qwen3-8b-base/math8k/bridge"]
    assert "GiB in its update (" in sentence and "but h100-80gb gives 75.6 GiB" in sentence
    assert sentence.endswith(
        "it fits 4 of them with training: {activation_checkpointing: true, cpu_offload: true, "
        "sharding: {stage: zero3, ranks: 4}}, or one with training: {trainable: lora}."
    )
    (tiny,) = (
        s for s in refusals(paper, device("l4")) if s.startswith("qwen3-8b-base/math8k/bridge ")
    )
    assert tiny.endswith("GiB: take a larger device.")
    # Where all weights take several cards, factors on one are told beside it; not what has none.
    on_a10 = {s.split(" ")[0]: s for s in refusals(paper, device("a10"))}
    assert on_a10["qwen2.5-3b/limr/bridge"].endswith(
        "cpu_offload: true, kv_cache_gib: 2, sharding: {stage: zero3, ranks: 8}}, or one with "
        "training: {trainable: lora, kv_cache_gib: 2}, and evaluation: {kv_cache_gib: 13}."
    )
    # vLLM samples beside ZeRO, so the suite's engine stays; with these settings the run does fit.
    assert not [s for s in on_a10.values() if "engine: native" in s]
    spec, small = paper.run("qwen2.5-3b", "limr", "bridge", 0), device("a10")
    spread = {"kv_cache_gib": 2.0, "sharding": ShardingConfig(stage="zero3", ranks=8)}
    training = spec.training.model_copy(update=spread)
    smaller = spec.evaluation.model_copy(update={"kv_cache_gib": 13.0})
    assert predict(replace(spec, training=training, evaluation=smaller), small).fits(small)
    assert not [s for s in on_a10.values() if "/mifo " in s and "trainable: lora" in s]
    assert all("\n" not in s for s in said.values())


def test_the_remedy_is_a_setting_with_which_it_fits(root: Path) -> None:
    greedy = {"training": {"activation_checkpointing": False, "micro_batch_tokens": 65536}}
    plan = load_plan("paper", root=root, overrides=greedy)
    small = device("h100-80gb")
    (sentence,) = (s for s in refusals(plan, small) if s.startswith("qwen2.5-3b/limr/rl_zero "))
    assert sentence.endswith("it fits with training: {activation_checkpointing: true}.")
    cured = {"training": {"activation_checkpointing": True, "micro_batch_tokens": 65536}}
    plan = load_plan("paper", root=root, overrides=cured)
    assert predict(plan.run("qwen2.5-3b", "limr", "rl_zero", 0), small).fits(small)


@pytest.mark.parametrize(
    ("method", "setting"), [("asft", {}), ("sft", {"optimizer": "adamw_8bit"})]
)
def test_several_devices_are_no_remedy_for_what_needs_one_process(
    paper: Plan, method: str, setting: dict[str, str]
) -> None:
    spec = paper.run("qwen2.5-3b", "limr", "sft", 0)
    training = spec.training.model_copy(update=setting)
    alone = replace(spec, method=method, method_options={"steps": 4}, training=training)
    (sentence,) = refusals(replace(paper, runs=(alone,)), device("a10"))
    assert "sharding" not in sentence and "trainable: lora" in sentence


def test_no_saving_is_a_setting_that_the_method_refuses(paper: Plan) -> None:
    """A moving average needs full precision."""
    spec = paper.run("qwen2.5-3b", "limr", "sft", 0)
    changes = {"precision": "float32", "engine": "native", "kl_coef": 0.0}
    training = spec.training.model_copy(update=changes)
    distilled = replace(spec, method="sdft", method_options={"steps": 4}, training=training)
    (sentence,) = refusals(replace(paper, runs=(distilled,)), device("h100-80gb"))
    assert "precision" not in sentence


def test_the_suite_of_the_page_on_24_gb_fits_such_a_card(root: Path) -> None:
    page = (root / "docs" / "how-to" / "24gb.md").read_text()
    found = re.search(r"```yaml\n(.*?)```", page, re.DOTALL)
    assert found is not None and found[1] in (root / "suites" / "card_24gb.yaml").read_text()
    plan, card = load_plan("card_24gb", root=root), device("rtx-4090")
    assert {s.training.trainable for s in plan.runs} == {"lora"}
    assert not list(refusals(plan, card))
    # The numbers of the page.
    for spec in plan.runs:
        peak = predict(spec, card).memory_gib["total"]
        assert f"| `{spec.label}` | {peak:.1f} |" in page
    (said,) = (s for s in refusals(load_plan("paper", root=root), card) if "b/limr/bridge " in s)
    assert said in " ".join(page.split())


def test_the_suite_for_one_gpu_fits_a_card_of_24_gb(root: Path) -> None:
    plan = load_plan("single_gpu", root=root)
    assert not list(refusals(plan, device("rtx-4090")))


def bridge(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(root)}
    return subprocess.run(
        [sys.executable, "-m", "bridge", *arguments],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_doctor_prints_the_table_and_fails_where_something_does_not_fit(root: Path) -> None:
    done = bridge(root, "doctor", "--suite", "single_gpu", "--device", "rtx-4090")
    assert done.returncode == 0, done.stderr
    assert "qwen3-0.6b/math/bridge " in done.stdout and done.stderr == ""
    done = bridge(root, "doctor", "--suite", "paper", "--device", "l4")
    assert done.returncode == 2
    assert done.stderr.count("bridge: ") == len(done.stderr.splitlines()) > 40
    done = bridge(root, "doctor", "--suite", "paper", "--device", "l5")
    assert done.returncode == 2 and "unknown device 'l5'; did you mean 'l4'?" in done.stderr


@pytest.mark.slow
def test_a_plan_that_cannot_fit_the_named_device_is_refused_before_any_job(root: Path) -> None:
    done = subprocess.run(
        ["snakemake", "-n", "--quiet", "--config", "suite=paper", "device=l4"],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "bridge: qwen2.5-3b/limr/sft needs" in done.stderr
    assert "Traceback" not in done.stderr


def test_this_machine_s_processor_is_a_device(root: Path) -> None:
    """As it is now: its rates are timed, its memory is the machine's."""
    found = device(CPU)
    assert found.float32_tflops is not None and found.tflops("float32") == found.float32_tflops
    assert found.bf16_tflops <= found.float32_tflops
    assert 1e-3 < found.float32_tflops < 100 and 0.1 < found.bandwidth_gbs < 10_000
    assert found.memory_gib == pytest.approx(psutil.virtual_memory().total / 2**30)
    plan = load_plan("smoke", root=root)
    text = prediction_text(plan, found)
    assert "GFLOPS" in text.splitlines()[0] and "device-hours of cpu" in text
    assert "runtime" not in predict(plan.runs[-1], found).memory_gib, "that is CUDA's"


def test_lengths_are_those_of_the_data_where_it_is_at_hand(tmp_path: Path, root: Path) -> None:
    rows = [{"question": "one two three", "answer": "4", "demonstration": "w " * 20 + "\\boxed{4}"}]
    rows.append({"question": "word " * 300, "answer": "4"})
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = {"path": str(path), "sha256": file_hash(path)}
    options = {"train": source, "benchmarks": {"same": source}}
    spec = load_plan("single_gpu", root=root).runs[0]
    shape = shape_of(spec.model_config, "here")
    before = rows_of(spec, shape)
    assert (before.prompt, before.mean_prompt) == (256, 128)
    own = replace(spec, family="own", dataset_options=options)
    found = rows_of(own, shape)
    # No tokenizer at hand: three bytes a token, and 32 tokens of a chat template.
    assert (found.prompt, found.demonstration) == (500 + 32, 17)
    assert found.mean_prompt == (500 + 5) / 2 + 32
    words = Tokenizer(models.WordLevel({"<unk>": 0}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.save(str(tmp_path / "tokenizer.json"))
    local = replace(own, model_config=LocalModel(source="local", path=str(tmp_path)))
    found = rows_of(local, shape)
    assert (found.prompt, found.demonstration, found.mean_prompt) == (300 + 32, 21, 303 / 2 + 32)
