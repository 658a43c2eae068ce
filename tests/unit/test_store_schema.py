"""Mistakes in a configuration: each is one line with the file, the key and the remedy."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
import yaml
from pydantic import ValidationError

from bridge.methods.registry import load_method, method_names
from bridge.plan.config import Suite, UserConfig, load_suite, load_user_config
from bridge.store.schema import ConfigError, merge, read_yaml, typed, validate
from bridge.store.settings import TinyModel
from bridge.tasks.registry import family_names, load_family

Raw = dict[str, Any]


@pytest.fixture
def raw(root: Path) -> Raw:
    return read_yaml(root / "suites" / "smoke.yaml")


def written(folder: Path, raw: Raw) -> Path:
    path = folder / "broken.yaml"
    path.write_text(yaml.safe_dump(raw))
    return path


def refusal(folder: Path, raw: Raw) -> str:
    """The one line that refuses this suite."""
    path = written(folder, raw)
    with pytest.raises(ConfigError) as caught:
        load_suite(path)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{path}: ")
    return message.removeprefix(f"{path}: ")


def put(raw: Raw, dotted: str, value: Any) -> Raw:
    """A copy with one key set; a key that is absent is added."""
    changed = copy.deepcopy(raw)
    at = changed
    *parents, last = dotted.split(".")
    for key in parents:
        at = at[int(key)] if isinstance(at, list) else at[key]
    at[last] = value
    return changed


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("titel", "title"),
        ("training.lr_slt", "lr_sft"),
        ("training.micro_batch_row", "micro_batch_rows"),
        ("evaluation.n_sample", "n_samples"),
        ("models.tiny-qwen.hiden", "hidden"),
        ("datasets.chains.famly", "family"),
        ("methods.sft.option", "options"),
        ("grid.0.seed", "seeds"),
    ],
)
def test_an_unknown_key_names_the_nearest_valid_one(
    tmp_path: Path, raw: Raw, key: str, nearest: str
) -> None:
    message = refusal(tmp_path, put(raw, key, 1))
    assert message == f"{key}: unknown key; did you mean '{nearest}'?"


def test_an_unknown_key_without_a_near_one_lists_the_valid_keys(tmp_path: Path, raw: Raw) -> None:
    message = refusal(tmp_path, put(raw, "grid.0.zzzz", 1))
    assert (
        message == "grid.0.zzzz: unknown key; valid keys: datasets, methods, models, seeds, worlds."
    )


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("training.n", "8", "valid integer"),
        ("training.n", 8.5, "valid integer"),
        ("training.n", True, "valid integer"),
        ("training.n", 1, "greater than or equal to 2"),
        ("training.temperature", 0, "greater than 0"),
        ("training.temperature", float("inf"), "finite"),
        ("training.lr_rl", "fast", "valid number"),
        ("training.norm_adv_by_std_in_grpo", "yes please", "valid boolean"),
        ("training.loss_agg_mode", "mean", "token-mean"),
        ("models.tiny-qwen.architecture", "gpt", "qwen2"),
        ("grid.0.seeds", [0.5], "valid integer"),
        ("grid.0.seeds", [], "at least 1 item"),
        ("models", ["tiny-qwen"], "valid dictionary"),
    ],
)
def test_a_wrong_value_names_its_key_and_what_was_given(
    tmp_path: Path, raw: Raw, key: str, value: Any, said: str
) -> None:
    message = refusal(tmp_path, put(raw, key, value))
    assert message.startswith(key)
    assert said in message
    assert "got " in message


ZERO3 = {"stage": "zero3", "ranks": 2}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"evaluation.n_samples": 0}, "both be 0 or both be positive"),
        ({"evaluation.sampled_questions": 0}, "both be 0 or both be positive"),
        ({"models.tiny-qwen.heads": 3}, "even multiple of heads"),
        ({"models.tiny-qwen.heads": 64}, "even multiple of heads"),
        ({"training.reward_correct": 0.0}, "greater than reward_wrong"),
        ({"training.sharding": {"ranks": 2}}, "need stage: zero2 or zero3"),
        ({"training.sharding": {"offload_optimizer": True}}, "need stage: zero2 or zero3"),
        ({"training.sharding": {"stage": "zero2", "ranks": 99}}, "too few for 99 ranks"),
        ({"training.sharding": ZERO3, "training.full_determinism": True}, "number of ranks"),
    ],
)
def test_an_impossible_combination_is_refused(
    tmp_path: Path, raw: Raw, changes: Raw, said: str
) -> None:
    for key, value in changes.items():
        raw = put(raw, key, value)
    assert said in refusal(tmp_path, raw)


def test_a_missing_key_is_named(tmp_path: Path, raw: Raw) -> None:
    del raw["training"]["lr_sft"]
    assert refusal(tmp_path, raw) == "training.lr_sft: this key is required."


def test_a_missing_suite_lists_those_there_are(tmp_path: Path, raw: Raw) -> None:
    written(tmp_path, raw)
    with pytest.raises(ConfigError, match=r"no such file; files there: broken\."):
        load_suite(tmp_path / "other.yaml")


@pytest.mark.parametrize("text", ["a: [1", "\t- x", "just words", "- a\n- b", ""])
def test_text_that_is_no_mapping_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_yaml(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_number_that_yaml_takes_for_text_is_explained(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("suite: laptop\nthreads: 3e-4\n")
    with pytest.raises(ConfigError, match=r"YAML needs a dot in a number: 3\.0e-4"):
        load_user_config(path)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("7", 7),
        ("0.5", 0.5),
        ("3e-4", 3e-4),
        ("-2E+3", -2000.0),
        ("1.0e-3", 1e-3),
        ("true", True),
        ("token-mean", "token-mean"),
        ("tiny-qwen", "tiny-qwen"),
        ("[", "["),
    ],
)
def test_text_of_a_command_line_is_read_as_yaml(text: str, value: Any) -> None:
    read = typed({"a": [{"b": text}]})["a"][0]["b"]
    assert read == value
    assert type(read) is type(value)


def test_overrides_are_merged_key_by_key(root: Path) -> None:
    path = root / "suites" / "smoke.yaml"
    plain = load_suite(path)
    changed = load_suite(path, {"training": {"temperature": 0.5}})
    assert changed.training == plain.training.model_copy(update={"temperature": 0.5})
    assert changed.model_copy(update={"training": plain.training}) == plain


def test_a_mistake_in_the_overrides_is_not_blamed_on_the_suite(root: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_suite(root / "suites" / "smoke.yaml", {"training": {"temprature": 0.5}})
    assert "overrides.training.temprature: unknown key" in str(caught.value)
    assert "did you mean 'temperature'?" in str(caught.value)


def test_merge_replaces_lists_and_leaves_the_rest() -> None:
    base = {"a": {"b": [1, 2], "c": 3}, "d": 4}
    merge(base, {"a": {"b": [5]}, "d": {"e": 6}})
    assert base == {"a": {"b": [5], "c": 3}, "d": {"e": 6}}


def test_the_user_configuration_of_this_repository_is_valid(root: Path) -> None:
    user = load_user_config(root / "config.yaml")
    assert user == UserConfig(suite="laptop")


def test_an_unknown_key_of_the_user_configuration(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("suite: laptop\nthread: 2\n")
    with pytest.raises(ConfigError) as caught:
        load_user_config(path)
    assert str(caught.value) == f"{path}: thread: unknown key; did you mean 'threads'?"


@pytest.mark.parametrize("name", ["../laptop", "a b", "", "x" * 65, "a/b"])
def test_names_cannot_leave_their_folder(name: str) -> None:
    with pytest.raises(ConfigError, match="suite"):
        validate(UserConfig, {"suite": name}, "here")


@pytest.fixture(scope="module")
def schemas() -> set[Any]:
    """All schemas of configurations, with those of every method and family."""
    seen: set[Any] = set()

    def visit(model: Any) -> None:
        if model not in seen:
            seen.add(model)
            for field in model.model_fields.values():
                for part in _classes(field.annotation):
                    visit(part)

    for model in (Suite, UserConfig):
        visit(model)
    for method in method_names():
        visit(load_method(method).Options)
    for family in family_names():
        visit(load_family(family).Options)
    assert TinyModel in seen
    return seen


def _classes(annotation: Any) -> list[Any]:
    if isinstance(annotation, type) and hasattr(annotation, "model_fields"):
        return [annotation]
    return [c for arg in get_args(annotation) for c in _classes(arg)]


def test_schemas_are_closed_and_frozen(schemas: set[Any]) -> None:
    """Also of a schema that is added later: a forgotten `Closed` would let typos pass."""
    for model in schemas:
        for name in ("frozen", "strict"):
            assert model.model_config.get(name), (model, name)
        assert model.model_config.get("extra") == "forbid", model
        assert model.model_config.get("allow_inf_nan") is False, model


def test_every_count_has_a_bound(schemas: set[Any]) -> None:
    """Also of an option that is added later: no run asks for 10^18 of anything."""
    for model in schemas:
        for name, field in model.model_fields.items():
            if _holds_int(field.annotation):
                for value in (10**18, -(10**18), 10**9 if "seed" not in name else 2**31):
                    with pytest.raises(ValidationError) as caught:
                        model.model_validate({name: _placed(field.annotation, value)})
                    said = {e["type"] for e in caught.value.errors() if e["loc"][0] == name}
                    assert said & BOUNDS, (model, name, value)


BOUNDS = {"greater_than_equal", "greater_than", "less_than_equal", "less_than"}


def _placed(annotation: Any, value: int) -> Any:
    """A number where a field of its kind holds one: by itself, in a list, in a list of pairs."""
    if get_origin(annotation) is not tuple:
        return value
    first, *rest = get_args(annotation)
    inner = _placed(first, value)
    return (inner,) if rest == [Ellipsis] else (1.0, *(value for _ in rest))


def _holds_int(annotation: Any) -> bool:
    return annotation is int or any(_holds_int(arg) for arg in get_args(annotation))


def test_a_model_may_be_called_like_a_source(tmp_path: Path, raw: Raw) -> None:
    """Pydantic puts the source into the place of a mistake; a model's name is not one."""
    for name in ("tiny", "hub", "local", "package"):
        renamed = {**raw, "models": {name: raw["models"]["tiny-qwen"] | {"hiden": 8}}}
        said = refusal(tmp_path, renamed)
        assert said == f"models.{name}.hiden: unknown key; did you mean 'hidden'?"


def test_an_override_of_one_key_changes_no_other(root: Path) -> None:
    """Aliases are copies, and what is merged in is one too."""
    base = read_yaml(root / "studies/coupling/suites/coupling.yaml")
    rows = base["methods"]
    assert rows["sft_rl"]["options"] == rows["sft_rl_k3_0.1"]["options"]
    merge(base, {"methods": {"sft_rl": {"options": {"steps": 1}}}})
    assert rows["sft_rl_k3_0.1"]["options"]["steps"] == 30
    over: Raw = {"a": {"b": {"c": 1}}, "d": {}}
    first: Raw = {"d": {}}
    merge(first, over)
    merge(first, {"a": {"b": {"c": 2}}})
    assert over == {"a": {"b": {"c": 1}}, "d": {}}
