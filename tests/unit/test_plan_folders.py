"""A plan and the folders and files of the user: models, data, rewards."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from bridge.plan import fingerprint as fingerprinting
from bridge.plan.fingerprint import fingerprint
from bridge.plan.grid import Plan, RunSpec, load_plan, load_run
from bridge.store.schema import ConfigError, read_yaml
from tests.fixtures.planning import check_differs


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A folder with all that a checkpoint has; its weights are not looked at."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "tokenizer.json").write_text("{}")
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    (folder / "model.safetensors").write_bytes(b"")
    return folder


def local(raw: dict[str, Any], folder: Path) -> None:
    raw["models"]["mine"] = {"source": "local", "path": str(folder)}
    raw["grid"][0]["models"] = ["mine"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("config.json", "config.json is missing"),
        ("tokenizer.json", "has no tokenizer.json"),
        ("chat_template.jinja", "has no chat template"),
        ("model.safetensors", "model.safetensors is missing"),
    ],
)
def test_a_model_s_folder_is_looked_at_before_any_job(
    planned: Callable[[Callable[[dict[str, Any]], None]], Plan],
    checkpoint: Path,
    name: str,
    said: str,
) -> None:
    (checkpoint / name).unlink()
    with pytest.raises(ConfigError) as caught:
        planned(lambda raw: local(raw, checkpoint))
    message = str(caught.value)
    assert "made.yaml: models.mine.path: " in message and said in message and "\n" not in message


def test_a_model_s_folder_that_is_not_there(
    planned: Callable[[Callable[[dict[str, Any]], None]], Plan], tmp_path: Path
) -> None:
    def change(raw: dict[str, Any]) -> None:
        tiny = raw["grid"][0] | {"methods": ["bridge"]}
        local(raw, tmp_path / "gone")
        raw["grid"].append(tiny)

    with pytest.raises(ConfigError, match=r"models\.mine\.path: there is no checkpoint at .*gone"):
        planned(change)
    # A job of another model does without it.
    assert load_run("made", ("tiny-qwen", "chains", "bridge", 1), root=tmp_path).seed == 1
    with pytest.raises(ConfigError, match=r"there is no checkpoint at .*gone"):
        load_run("made", ("mine", "chains", "bridge", 1), root=tmp_path)


@pytest.mark.parametrize(
    ("targets", "fits"), [("all-linear", True), (r".*\.q_proj", True), ("q", 0)]
)
def test_layers_of_a_model_s_folder_are_known(
    planned: Callable[[Callable[[dict[str, Any]], None]], Plan],
    checkpoint: Path,
    targets: str,
    fits: bool,
) -> None:
    def change(raw: dict[str, Any]) -> None:
        local(raw, checkpoint)
        raw["methods"]["bridge"]["options"]["targets"] = targets

    if fits:
        assert {spec.model for spec in planned(change).runs} == {"mine"}
        return
    with pytest.raises(ConfigError, match=r"methods\.bridge\.options\.targets: 'q' fits no layer"):
        planned(change)


def test_a_data_file_is_looked_at_before_any_job(
    planned: Callable[[Callable[[dict[str, Any]], None]], Plan], checkpoint: Path, tmp_path: Path
) -> None:
    path = tmp_path / "problems.jsonl"
    part = {"path": str(path), "sha256": "0" * 64}

    def change(raw: dict[str, Any]) -> None:
        local(raw, checkpoint)
        raw["datasets"]["chains"] = {
            "family": "own",
            "options": {"train": part, "benchmarks": {"mine": part}},
        }

    with pytest.raises(ConfigError, match=r"datasets\.chains.*problems\.jsonl"):
        planned(change)


# -- hashes ----------------------------------------------------------------------------------------


@pytest.fixture
def own(root: Path, tmp_path: Path, checkpoint: Path) -> Callable[..., RunSpec]:
    """The first run of a suite on the local checkpoint, planned anew at each call."""
    raw = read_yaml(root / "suites/smoke.yaml")
    (tmp_path / "suites").mkdir()

    def load(folder: Path = checkpoint) -> RunSpec:
        raw["models"] = {"tiny-qwen": {"source": "local", "path": str(folder)}}
        (tmp_path / "suites/own.yaml").write_text(yaml.safe_dump(raw))
        return load_plan("own", root=tmp_path).runs[0]

    return load


def test_a_local_model_is_hashed_by_what_it_holds(
    own: Callable[..., RunSpec], checkpoint: Path
) -> None:
    """Edited between two plans: what was trained before is not taken for what would be now."""
    first = own()
    assert own().train_hash == first.train_hash
    texts = {"model.safetensors": "other weights", "chat_template.jinja": "{{ other }}"}
    for name in (*texts, "tokenizer_config.json", "generation_config.json"):
        (checkpoint / name).write_text(texts.get(name, '{"a": 1}'))
        changed = own()
        check_differs(first, changed, name, trains=True)
        first = changed
    (checkpoint / "notes.txt").write_text("nothing that a policy is loaded from")
    assert own().train_hash == first.train_hash


def test_shards_of_a_local_model_are_in_its_hashes(
    own: Callable[..., RunSpec], checkpoint: Path
) -> None:
    (checkpoint / "model.safetensors").unlink()
    (checkpoint / "model.safetensors.index.json").write_text(
        '{"weight_map": {"w": "a.safetensors"}}'
    )
    (checkpoint / "a.safetensors").write_text("weights")
    first = own()
    (checkpoint / "a.safetensors").write_text("weightz")
    check_differs(first, own(), "a shard", trains=True)


def test_a_reward_function_is_in_the_hashes_with_its_source(
    planned: Callable[[Callable[[dict[str, Any]], None]], Plan], tmp_path: Path, root: Path
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/rewards.py").write_text(
        "from mine import helpers\ndef short(**_): return 1\n"
    )
    (tmp_path / "mine/helpers.py").write_text("limit = 1\n")
    plain = load_plan("smoke", root=root).runs[0]

    def change(raw: dict[str, Any]) -> None:
        raw["datasets"][plain.dataset]["reward"] = "mine.rewards:short"

    first = planned(change).runs[0]
    check_differs(plain, first, "a reward", trains=True)
    for file in ("mine/helpers.py", "mine/rewards.py"):
        fingerprint.cache_clear()
        for cached in (fingerprinting.closure, fingerprinting._find, fingerprinting.module_source):
            cached.cache_clear()
        with (tmp_path / file).open("a") as stream:
            stream.write("more = 2\n")
        edited = load_plan("made", root=tmp_path).runs[0]
        check_differs(first, edited, file, trains=True)
        first = edited


@pytest.mark.parametrize(
    ("reward", "text", "said"),
    [
        ("rewards:short", None, "there is no .*rewards.py; write the function there"),
        ("rewards:long", "def short(): ...", "has no 'long'"),
        ("rewards:short", "def short(:", "rewards.py is not Python"),
        ("rewards", "", r"reward: String should match"),
        ("../rewards:short", "", r"reward: String should match"),
    ],
)
def test_a_reward_that_is_not_there_is_refused_before_any_job(
    planned: Callable[[Callable[[dict[str, Any]], None]], Plan],
    tmp_path: Path,
    reward: str,
    text: str | None,
    said: str,
) -> None:
    if text is not None:
        (tmp_path / "rewards.py").write_text(text)

    def change(raw: dict[str, Any]) -> None:
        for config in raw["datasets"].values():
            config["reward"] = reward

    with pytest.raises(ConfigError, match=said) as caught:
        planned(change)
    assert "datasets." in str(caught.value) and "\n" not in str(caught.value)


def test_a_moved_local_model_keeps_its_hashes(
    own: Callable[..., RunSpec], checkpoint: Path, tmp_path: Path
) -> None:
    first = own()
    moved = own(checkpoint.rename(tmp_path / "elsewhere"))
    assert (moved.train_hash, moved.spec_hash) == (first.train_hash, first.spec_hash)
    assert moved.as_dict()["model_config"]["path"] == str(tmp_path / "elsewhere")
