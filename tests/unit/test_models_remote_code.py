"""Code of a checkpoint is never run, whatever is answered to a library that asks."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from bridge.store.records import read_json
from tests.fixtures.released import KINDS, make_released

CODE = """
from pathlib import Path
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
Path(__file__).resolve(); Path({marker!r}).write_text("it ran")
class OwnConfig(LlamaConfig):
    model_type = "own"
class OwnModel(LlamaForCausalLM):
    config_class = OwnConfig
class OwnTokenizer(PreTrainedTokenizerFast):
    pass
"""
ASKED = """
import sys
from pathlib import Path
from bridge.evaluation.engine_model import vllm_policy
from bridge.evaluation.model import EvaluatedPolicy
from bridge.models.checkpoint import load_policy, load_tokenizer
for folder in map(Path, sys.argv[1:]):
    for load in (
        load_policy,
        load_tokenizer,
        lambda f: EvaluatedPolicy(f, batch_size=1, max_response_tokens=4),
        lambda f: vllm_policy(f, kv_cache_gib=0.1),
    ):
        try:
            load(folder)
            print("loaded")
        except RuntimeError as error:
            print(f"{type(error).__name__}: {error}")
"""


def test_python_in_a_folder_is_refused_though_yes_is_answered(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    files = ("own.OwnConfig", "own.OwnModel", ["own.OwnTokenizer", "own.OwnTokenizer"])
    config = {"auto_map": {"AutoConfig": files[0], "AutoModelForCausalLM": files[1]}}
    of_tokenizer = {"tokenizer_class": "OwnTokenizer", "auto_map": {"AutoTokenizer": files[2]}}
    edits = {
        "unknown": {"config.json": config | {"model_type": "own"}},
        "known": {"config.json": config},
        "tokenizer": {"tokenizer_config.json": of_tokenizer},
    }
    folders = []
    for name, changes in edits.items():
        folder = make_released(tmp_path / name, KINDS["qwen-chat"])
        (folder / "own.py").write_text(CODE.format(marker=str(marker)))
        for file, values in changes.items():
            (folder / file).write_text(json.dumps(read_json(folder / file) | values))
        folders.append(str(folder))
    done = subprocess.run(
        [sys.executable, "-c", ASKED, *folders],
        input="y\n" * 100,
        capture_output=True,
        text=True,
        check=False,
    )
    said = [line for line in done.stdout.splitlines() if line.strip()]
    assert len(said) == 4 * len(edits), done.stdout + done.stderr[-2000:]
    for line in said:
        assert line.startswith("CheckpointError: ") and line.endswith("transformers includes.")
        assert "names Python code of its own (auto_map)" in line
    assert not marker.exists(), "the code ran"


@pytest.mark.parametrize("package", ["bridge", "studies", "benchmarks", "tests"])
def test_every_loading_call_forbids_code(root: Path, package: str) -> None:
    """Left out, the argument means that transformers asks on the terminal."""
    calls = 0
    for path in sorted(root.joinpath(package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and _loads(node.func):
                calls += 1
                given = {k.arg: ast.unparse(k.value) for k in node.keywords}
                assert given.get("trust_remote_code") == "False", f"{path}:{node.lineno}"
    assert calls or package == "studies"


def _loads(function: ast.expr) -> bool:
    """Whether a call reads a configuration, a tokenizer or a model from somewhere."""
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    return name in ("from_pretrained", "LLM", "get_tokenizer")
