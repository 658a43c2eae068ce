"""Configurations that cannot be meant: each is refused in one sentence, or read as it is written.

An expectation is a part of the sentence, or None where the input is to be accepted.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bridge.jobs.cli import main, parser
from bridge.plan.config import load_user_config
from bridge.plan.grid import Plan, load_plan
from bridge.store.schema import ConfigError, read_yaml

LONGEST_SENTENCE = 800
"""Characters; the path of a test's folder included."""

# -- suites: a line of suites/smoke.yaml becomes another one ---------------------------------------

TITLE = "title: Smoke test"
MODEL = "  tiny-qwen:\n    source: tiny"
FAMILY = "    family: chains"
OPTIONS = "    options: {questions_scale: 0.1}"
BATCH = "  prompts_per_step: 4"
N = "  n: 4"
TOKENS = "  max_response_tokens: 72\n  sft_batch_size"
RATE = "  lr_rl: 3.0e-4"
SAMPLES = "  n_samples: 2"
BASE = "  base: {method: untrained}"
SFT = "  sft: {options: {steps: 8}}"
BRIDGE = "  bridge: {options: {steps: 8}}"
ROWS = "    methods: [base, sft, rl_zero, cold_start, bridge]"
SEEDS = "    seeds: [0, 1]"
TRAINING = "training:\n"
MEGABYTE = "x" * 150_000
TRUTH = "as a truth value"
TWICE = "is given twice; keep one"
NO_NAME = "is no name"

SUITES: list[tuple[str, str, str | None]] = [
    # A key that stands twice.
    (RATE, f"{RATE}\n  lr_rl: 9.0e-4", f"line 30: the key 'lr_rl' {TWICE}"),
    (SFT, f"{SFT}\n  sft: {{options: {{steps: 2}}}}", f"the key 'sft' {TWICE}"),
    (SFT, '  sft: {options: {steps: 8, "steps": 9}}', f"the key 'steps' {TWICE}"),
    (TRAINING, "training: {n: 4}\ntraining:\n", f"the key 'training' {TWICE}"),
    (TITLE, "title: One\ntitle: Two", f"line 4: the key 'title' {TWICE}"),
    (FAMILY, f"{FAMILY}\n{FAMILY}", f"the key 'family' {TWICE}"),
    (SFT, "  sft: {options: {<<: {steps: 8}, <<: {steps: 9}}}", f"the key '<<' {TWICE}"),
    # Words that YAML reads as something else.
    (BASE, "  no: {method: sft, options: {steps: 8}}", f"YAML reads the key no {TRUTH}"),
    (BASE, "  on: {method: untrained}", f"YAML reads the key on {TRUTH}"),
    (BASE, "  Yes: {method: untrained}", f"YAML reads the key Yes {TRUTH}"),
    (BASE, "  true: {method: untrained}", f"YAML reads the key true {TRUTH}"),
    (BASE, "  null: {method: untrained}", "YAML reads the key null as nothing"),
    (BASE, "  ~: {method: untrained}", "YAML reads the key ~ as nothing"),
    (BASE, "  2024: {method: untrained}", "YAML reads the key 2024 as a number"),
    (BASE, "  0x10: {method: untrained}", "YAML reads the key 0x10 as a number"),
    (BASE, "  1.5: {method: untrained}", "YAML reads the key 1.5 as a number"),
    (BASE, "  1:30: {method: untrained}", "YAML reads the key 1:30 as a number"),
    (BASE, "  2024-01-01: {method: untrained}", "YAML reads the key 2024-01-01 as a date"),
    (BASE, "  [a]: {method: untrained}", "a key has to be a text"),
    (BASE, f'{BASE}\n  "no": {{method: untrained}}', None),
    (BASE, f'{BASE}\n  "2024": {{method: untrained}}', None),
    (BASE, f"{BASE}\n  1e3: {{method: untrained}}", None),  # a text to YAML 1.1
    (ROWS, "    methods: [no]", f"YAML reads no {TRUTH}"),
    (ROWS, "    methods: [2024]", "valid string; put it in quotes (got 2024)"),
    (ROWS, "    methods: [null]", "valid string; put it in quotes (got None)"),
    (ROWS, "    methods: [2024-01-01]", "YAML reads 2024-01-01 as a date"),
    (TITLE, "title: off", f"YAML reads off {TRUTH}"),
    (TITLE, "title: 12", "title: Input should be a valid string; put it in quotes (got 12)"),
    (TITLE, 'title: "off"', None),
    (SEEDS, "    seeds: [010]", "YAML reads 010 as 8; write it plainly"),
    (SEEDS, "    seeds: [1:30]", "YAML reads 1:30 as 90"),
    (SEEDS, "    seeds: [1_0]", "YAML reads 1_0 as 10"),
    (SEEDS, "    seeds: [0b11]", "YAML reads 0b11 as 3"),
    (SEEDS, "    seeds: [0x3]", "YAML reads 0x3 as 3"),
    (RATE, "  lr_rl: 1:30.5", "YAML reads 1:30.5 as 90.5"),
    (RATE, "  lr_rl: 3e-4", "YAML needs a dot in a number: 3.0e-4"),
    (N, f"{N}\n  norm_adv_by_std_in_grpo: yes", f"YAML reads yes {TRUTH}"),
    (N, f"{N}\n  norm_adv_by_std_in_grpo: true", None),
    # Counts.
    (SFT, "  sft: {options: {steps: 1000000000000000000}}", "less than or equal to 100000"),
    (SFT, "  sft: {options: {steps: 100001}}", "less than or equal to 100000"),
    (SFT, "  sft: {options: {steps: 0}}", "greater than or equal to 1"),
    (SFT, "  sft: {options: {steps: -8}}", "greater than or equal to 1"),
    (SFT, "  sft: {options: {steps: 8.0}}", "valid integer"),
    (SFT, '  sft: {options: {steps: "8"}}', "valid integer"),
    (SFT, "  sft: {options: {steps: true}}", "valid integer"),
    (SFT, f"  sft: {{options: {{steps: {'9' * 5000}}}}}", "a number of 5,000 characters"),
    (SFT, "  sft: {options: {steps: 99999}}", None),
    (SEEDS, "    seeds: [-1]", "grid.0.seeds.0: Input should be greater than or equal to 0"),
    (SEEDS, "    seeds: [2147483648]", "less than or equal to 2147483647"),
    (SEEDS, "    seeds: [99999999999999999999]", "less than or equal to 2147483647"),
    (SEEDS, "    seeds: [0, 0]", "base/seed0 is asked for twice"),
    (SEEDS, "    seeds: []", "at least 1 item"),
    (SEEDS, "    seeds: 0", "valid tuple"),
    (SEEDS, "    seeds: [2147483647]", None),
    (SEEDS, f"    seeds: [{', '.join(map(str, range(4001)))}]", "asks for 20,005 runs"),
    (BATCH, "  prompts_per_step: 1000001", "less than or equal to 1000000"),
    (N, "  n: 1000000000", "less than or equal to 10000"),
    (N, "  n: 1", "greater than or equal to 2"),
    (
        TOKENS,
        "  max_response_tokens: 1000000000\n  sft_batch_size",
        "less than or equal to 1000000",
    ),
    (SAMPLES, "  n_samples: 1000000", "less than or equal to 10000"),
    (SAMPLES, f"{SAMPLES}\n  batch_size: 0", "greater than or equal to 1"),
    (SAMPLES, f"{SAMPLES}\n  kv_cache_gib: 1.0e+30", "less than or equal to 100000"),
    (RATE, f"{RATE}\n  temperature: 1.0e+9", "less than or equal to 100"),
    (RATE, "  lr_rl: .inf", "finite number"),
    (RATE, "  lr_rl: .nan", "finite number"),
    (RATE, "  lr_rl: -1.0e-4", "greater than or equal to 0"),
    (RATE, f"{RATE}\n  micro_batch_tokens: 0", "greater than or equal to 1"),
    (RATE, f"{RATE}\n  sharding: {{stage: zero2, ranks: 5000}}", "less than or equal to 1024"),
    (RATE, f"{RATE}\n  probe_samples: 1", "0, or 2 and more"),
    (MODEL, f"{MODEL}\n    seed: -1", "greater than or equal to 0"),
    ("    hidden: 64", "    hidden: 1000000", "less than or equal to 8192"),
    ("    layers: 2", "    layers: 100000", "less than or equal to 128"),
    ("    heads: 4", "    heads: 3", "even multiple of heads"),
    ("    skill_steps: 140", "    skill_steps: 1000000000", "less than or equal to 100000"),
    (OPTIONS, "    options: {train_size: 1000000000}", "datasets.chains.options.train_size"),
    (OPTIONS, "    options: {seed: -1}", "datasets.chains.options.seed"),
    (OPTIONS, '    options: {train_size: "100"}', "datasets.chains.options.train_size"),
    (OPTIONS, "    options: {questions_scale: 0}", "greater than 0"),
    # Names, which are folders' names.
    (BASE, "  ../base: {method: untrained}", f"'../base' {NO_NAME}"),
    (BASE, "  a/b: {method: untrained}", f"'a/b' {NO_NAME}"),
    (BASE, '  "": {method: untrained}', f"'' {NO_NAME}"),
    (BASE, '  "base\\n": {method: untrained}', NO_NAME),
    (BASE, '  "base ": {method: untrained}', NO_NAME),
    (BASE, "  .base: {method: untrained}", NO_NAME),
    (BASE, "  -base: {method: untrained}", NO_NAME),
    (BASE, "  bäse: {method: untrained}", NO_NAME),
    (BASE, '  "b\\0": {method: untrained}', NO_NAME),
    (BASE, f"  {'b' * 65}: {{method: untrained}}", NO_NAME),
    (BASE, f"{BASE}\n  {'b' * 64}: {{method: untrained}}", None),
    (MODEL, "  ..:\n    source: tiny", f"models...: '..' {NO_NAME}"),
    (FAMILY, "    family: ../chains", f"'../chains' {NO_NAME}"),
    (SFT, f"{SFT}\n  SFT: {{method: sft, options: {{steps: 8}}}}", "differ in letters' case only"),
    (MODEL, "  Tiny:\n    source: tiny", "unknown model 'tiny-qwen'"),
    # Rows and parts that the grid does not use.
    (SFT, f"{SFT}\n  spare: {{method: stf}}", "unknown method 'stf'; did you mean 'sft'?"),
    (SFT, f"{SFT}\n  spare: {{method: sft}}", "methods.spare.options.steps: this key is required"),
    (SFT, f"{SFT}\n  spare: {{method: sft, options: {{step: 8}}}}", "did you mean 'steps'?"),
    (
        SFT,
        f"{SFT}\n  spare: {{method: untrained, training: {{lr: 1}}}}",
        "methods.spare.training.lr",
    ),
    (SFT, f"{SFT}\n  spare: {{method: untrained}}", None),
    (
        SFT,
        f"{SFT}\n  spare: {{method: bridge, options: {{steps: 8, shadow_steps: 3}}}}",
        "methods.spare: options: shadow_steps above 1 needs shadow: m_step",
    ),
    (FAMILY, f"{FAMILY}\n  more: {{family: chians}}\n  chains:", f"the key 'chains' {TWICE}"),
    ("datasets:\n", "datasets:\n  more: {family: chians}\n", "did you mean 'chains'?"),
    (
        "datasets:\n",
        "datasets:\n  more: {family: chains, options: {seeds: 1}}\n",
        "more.options.seeds",
    ),
    (
        "models:\n",
        "models:\n  spare: {source: tiny, architecture: qwen2, families: [rings], skill_steps: 1,"
        " habit_steps: 0}\n",
        "unknown problem family 'rings'",
    ),
    (
        "models:\n",
        "models:\n  spare: {source: hub, repo: a/b, revision: main}\n",
        "models.spare.revision",
    ),
    (
        "models:\n",
        "models:\n  hub: {source: hub, repo: nobody, revision: main}\n",
        "models.hub.repo",
    ),
    (
        "models:\n",
        "models:\n  spare: {source: local, path: nowhere}\n",
        None,
    ),  # not on this machine
    # Adapters.
    (BRIDGE, "  bridge: {options: {steps: 8, targets: q_proj}}", "'q_proj' fits no layer"),
    (BRIDGE, "  bridge: {options: {steps: 8, targets: all_linear}}", "'all_linear' fits no layer"),
    (BRIDGE, '  bridge: {options: {steps: 8, targets: "("}}', "'(' is no regular expression"),
    (BRIDGE, '  bridge: {options: {steps: 8, targets: ""}}', "'' fits no layer"),
    (BRIDGE, r'  bridge: {options: {steps: 8, targets: ".*\\.(q|v)_proj"}}', None),
    (BRIDGE, "  bridge: {options: {steps: 8, targets: [q_proj]}}", "valid string"),
    (BRIDGE, "  bridge: {options: {steps: 8, rank: 100000}}", "less than or equal to 4096"),
    # Shapes.
    (TITLE, "title: [a]", "title: Input should be a valid string"),
    (TITLE, "titel: Smoke test", "titel: unknown key; did you mean 'title'?"),
    (TITLE, "", "title: this key is required"),
    (TITLE, 'title: ""', "at least 1 character"),
    (TITLE, f"title: {MEGABYTE}", "at most 200 characters"),
    (BASE, f"{BASE}\n  {MEGABYTE}: {{method: untrained}}", "not readable as YAML"),
    (BASE, f"{BASE}\n  {'x' * 999}: {{method: untrained}}", NO_NAME),
    (BASE, f"  base: {{method: untrained, {MEGABYTE}: 1}}", "not readable as YAML"),
    (BASE, f"  base: {{method: untrained, {'x' * 999}: 1}}", "unknown key"),
    (SFT, f"  sft: {{options: {{steps: {MEGABYTE}}}}}", "valid integer"),
    (SFT, f"  sft: {{options: {{steps: [{MEGABYTE}]}}}}", "valid integer"),
    (ROWS, f"    methods: [{MEGABYTE}]", NO_NAME),
    (ROWS, "    methods: [bas]", "unknown method 'bas'; did you mean"),
    (ROWS, "    methods: sft", "valid tuple"),
    (ROWS, "    methods: [[sft]]", "valid string"),
    (MODEL, "  tiny-qwen:\n    source: web", "tiny"),
    (SFT, "  sft: [steps]", "methods.sft"),
    (SFT, "  sft: {options: null}", "valid dictionary"),
    ("grid:\n", "grid: []\nspare:\n", "spare: unknown key"),
    (TITLE, f"{TITLE}\nextends: nobody", "suites/nobody.yaml: no such file"),
    (TITLE, f"{TITLE}\nextends: made", "only one level is allowed"),
    (TITLE, f"{TITLE}\nextends: ../smoke", "extends: name one other suite"),
    (TITLE, f"{TITLE}\nextends: [smoke]", "extends: name one other suite"),
    (TITLE, f"{TITLE}\nextends: smoke", None),
    # Aliases.
    (SFT, "  sft: &a {options: {steps: 8}}\n  spare: {<<: *a, method: sft}", None),
    (SFT, "  sft: &a {<<: *a}", "an alias that holds itself"),
    (SFT, "  sft: &a {options: *a}", "an alias that holds itself"),
    (SFT, "  sft: {<<: 8}", "<< takes a mapping or a list of mappings"),
    (SFT, "  sft: *nobody", "undefined alias"),
]


def bomb(step: str) -> str:
    """Aliases of aliases: nine levels of ten make billions of values."""
    lines = ["x0: &x0 {a: 1, b: 2}"]
    for level in range(1, 10):
        lines.append(f"x{level}: &x{level} " + step.format(", ".join([f"*x{level - 1}"] * 10)))
    return "\n".join(lines)


KEYS = ", ".join(f"k{i}: 1" for i in range(1000))
WIDE = f"x: &x {{{KEYS}}}\ny: {{<<: [{', '.join(['*x'] * 200)}]}}"

TEXTS: list[tuple[str, str | bytes, str | None]] = [
    ("empty", "", "expected a mapping"),
    ("a word", "laptop", "expected a mapping"),
    ("a list", "- suite: laptop", "expected a mapping"),
    ("cut off", "suite: [laptop", "not readable as YAML"),
    ("a tab", "suite:\n\tlaptop", "not readable as YAML"),
    ("two documents", "suite: laptop\n---\nsuite: smoke", "single document"),
    ("bytes", b"\xff\xfe\x00s", "not readable as YAML"),
    ("latin-1", "suite: laptop # für".encode("latin-1"), "not readable as YAML"),
    ("a control character", "suite: lap\x07top", "special characters"),
    ("a byte order mark", "\ufeffsuite: laptop\n", None),
    ("windows", "suite: laptop\r\nthreads: 2\r\n", None),
    ("a comment only", "# nothing", "expected a mapping"),
    ("lists in lists", "suite: " + "[" * 5000, "nested too deeply"),
    ("mappings in mappings", "suite: " + "{a: " * 5000, "nested too deeply"),
    ("a long file", "# " + "x" * 300_000, "more than 200,000 characters"),
    ("aliases of aliases", bomb("[{}]"), "more than 100,000 values"),
    ("merges of merges", bomb("{{<<: [{}]}}"), None),  # the same two keys all along
    ("a wide merge", WIDE, "more than 100,000 values"),
    ("a Python object", "suite: !!python/object/apply:os.system [ls]", "constructor for the tag"),
    ("a Python name", "suite: !!python/name:os.system", "constructor for the tag"),
    ("a tag of its own", "suite: !laptop x", "constructor for the tag"),
    ("a set", "suite: !!set {laptop}", "constructor for the tag"),
    ("binary", "suite: !!binary aGk=", "constructor for the tag"),
    ("a tagged number", "threads: !!int two\nsuite: laptop", "not readable as YAML"),
    ("a tagged text", "suite: !!str laptop", None),
    ("a lone surrogate", 'suite: "\\ud800"', "suite: "),
    ("no suite", "threads: 1", "suite: this key is required"),
    ("a path", "suite: suites/laptop", f"'suites/laptop' {NO_NAME}"),
    ("a file's name", "suite: ../laptop.yaml", NO_NAME),
    ("an empty name", 'suite: ""', f"'' {NO_NAME}"),
    ("the committed tables", "suite: cached", "results/cached holds what is committed"),
    ("the published numbers", "suite: Published", "holds what is committed"),
    ("a number", "suite: 2024", "put it in quotes (got 2024)"),
    ("no", "suite: no", f"YAML reads no {TRUTH}"),
    ("no threads", "suite: laptop\nthreads: 0", "greater than or equal to 1"),
    ("many threads", "suite: laptop\nthreads: 99999", "less than or equal to 1024"),
    ("half a thread", "suite: laptop\nthreads: 0.5", "valid integer"),
    ("a device's path", "suite: laptop\ndevice: a/b", NO_NAME),
    ("an unknown source", "suite: laptop\nsource: web", "'results' or 'cached'"),
    ("overrides in a list", "suite: laptop\noverrides: [1]", "valid dictionary"),
    ("a typo", "suit: laptop", "did you mean 'suite'?"),
    ("twice", "suite: laptop\nsuite: smoke", f"line 2: the key 'suite' {TWICE}"),
    ("fine", "suite: laptop\noverrides: {training: {n: 4}}\nthreads: 2", None),
]

OVERRIDES: list[tuple[str, str | None]] = [
    ("{}", None),
    ('{"training": {"temperature": 0.5}}', None),
    ('{"training": {"n": 4, "n": 8}}', f"the key 'n' {TWICE}"),
    ('{"training": {}, "training": {}}', f"the key 'training' {TWICE}"),
    ('{"training": {"lr_rl": NaN}}', "NaN is no JSON number"),
    ('{"training": {"lr_rl": Infinity}}', "Infinity is no JSON number"),
    ('{"training": {"lr_rl": 1e999}}', "finite number"),
    ("{training: {}}", "not readable as JSON"),
    ("[]", "expected a JSON mapping"),
    ("7", "expected a JSON mapping"),
    ("", "not readable as JSON"),
    ("{" * 100_000, "not readable as JSON"),
    ('{"a":' * 100_000, "nested too deeply"),
    (f'{{"training": {{"n": {"9" * 5000}}}}}', "not readable as JSON"),
    ('{"training": {"n": 1000000000000000000}}', "less than or equal to 10000"),
    ('{"training": {"nn": 4}}', "overrides.training.nn: unknown key; did you mean 'n'?"),
    ('{"extends": "laptop"}', "overrides.extends: unknown key"),
    ('{"grid": []}', "at least 1 item"),
    (f'{{"title": "{MEGABYTE}"}}', "at most 200 characters"),
    ('{"methods": {"../x": {"method": "untrained"}}}', f"'../x' {NO_NAME}"),
    ('{"models": {"tiny-qwen": {"source": "local", "path": "nowhere"}}}', "unknown key"),
    ('{"models": {"tiny-qwen": null}}', "models.tiny-qwen"),
]

RUN = "train --model tiny-qwen --dataset chains --method sft --seed 0"
COMMANDS: list[tuple[str, str | None]] = [
    (RUN, None),
    (f"{RUN} --threads 1024", None),
    (f"{RUN} --seed 2147483647", None),
    (f"{RUN} --seed -1", "argument --seed: expected a whole number from 0 to 2147483647"),
    (f"{RUN} --seed 1.5", "argument --seed"),
    (f"{RUN} --seed 1e3", "argument --seed"),
    (f"{RUN} --seed 1_0", "argument --seed"),
    (f"{RUN} --seed ٣", "argument --seed"),
    (f"{RUN} --seed 2147483648", "argument --seed"),
    (f"{RUN} --seed {'9' * 9000}", "argument --seed"),
    (f"{RUN} --threads 0", "argument --threads: expected a whole number from 1 to 1024"),
    (f"{RUN} --threads -4", "argument --threads"),
    (f"{RUN} --threads 99999", "argument --threads"),
    (f"{RUN} --threads all", "argument --threads"),
    (f"{RUN} --suite=", f"argument --suite: '' {NO_NAME}"),
    (f"{RUN} --suite ..", f"'..' {NO_NAME}"),
    (f"{RUN} --suite suites/laptop.yaml", NO_NAME),
    (f"{RUN} --suite /etc", NO_NAME),
    (f"{RUN} --suite cached", "holds what is committed"),
    (f"{RUN} --suite nobody", "suites/nobody.yaml: no such file"),
    (f"{RUN} --suite {MEGABYTE}", NO_NAME),
    (f"{RUN} --model ../tiny-qwen", NO_NAME),
    (f"{RUN} --dataset a/b", NO_NAME),
    (f"{RUN} --method=", NO_NAME),
    (f"{RUN} --expect ../x", NO_NAME),
    (f"{RUN} --results config.yaml", "config.yaml' is a file, not a folder"),
    (f"{RUN} --results config.yaml/deeper", "is a file, not a folder"),
    (f"{RUN} --results=", "names no folder"),
    (f"{RUN} --results {'d' * 300}", "too long"),
    (f"{RUN} --sui smoke", "unrecognized arguments: --sui"),
    (f"{RUN} --nobody", "unrecognized arguments: --nobody"),
    ("train", "the following arguments are required"),
    ("", "the following arguments are required"),
    ("tran", "invalid choice: 'tran'"),
    ("figures --processes 0", "argument --processes"),
    ("figures --processes 2", None),
    ("cache --suite ../smoke", NO_NAME),
    ("cache --suite /tmp", NO_NAME),
    ("cache --suite=", NO_NAME),
    ("cache --suite published", "holds what is committed"),
    ("compare sft", "name two methods, runs or suites"),
    ("compare sft ..", NO_NAME),
    ("compare sft a/b", "expected a suite, a method or a run"),
    ("compare sft ../../../etc", NO_NAME),
    ("compare m/d/sft/seed0 m/d/sft/seed1", None),
    ("doctor --device a/b", NO_NAME),
    ("doctor --device a100", "unknown device 'a100'"),
    (f"summary --tidy {os.devnull}", "is a file, not a folder"),
]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the suite ``smoke``, as the repository's."""
    here, there = Path(__file__).resolve().parents[2], tmp_path_factory.mktemp("root")
    (there / "suites").mkdir()
    (there / "suites" / "smoke.yaml").write_text((here / "suites" / "smoke.yaml").read_text())
    (there / "config.yaml").write_text("suite: smoke\n")
    return there


def judge(sentence: str, expected: str) -> None:
    assert expected in sentence
    assert "\n" not in sentence
    assert len(sentence) < LONGEST_SENTENCE


def planned(root: Path, name: str, **options: object) -> str | Plan:
    """The plan of a suite, or the sentence that refuses it."""
    try:
        return load_plan(name, root=root, **options)  # type: ignore[arg-type]
    except ConfigError as error:
        return str(error)


@pytest.mark.parametrize(("old", "new", "expected"), SUITES, ids=range(len(SUITES)))
def test_suites(root: Path, old: str, new: str, expected: str | None) -> None:
    text = (root / "suites" / "smoke.yaml").read_text()
    assert text.count(old) == 1
    (root / "suites" / "made.yaml").write_text(text.replace(old, new), encoding="utf-8")
    found = planned(root, "made")
    if expected is None:
        assert isinstance(found, Plan), found
    else:
        assert isinstance(found, str)
        judge(found, expected)


@pytest.mark.parametrize(
    ("content", "expected"), [case[1:] for case in TEXTS], ids=[case[0] for case in TEXTS]
)
def test_files(tmp_path: Path, content: str | bytes, expected: str | None) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    read = read_yaml if "x0" in str(content) else load_user_config  # a bomb is no configuration
    if expected is None:
        read(path)
        return
    with pytest.raises(ConfigError) as caught:
        read(path)
    judge(str(caught.value), expected)


def test_a_folder_in_the_place_of_a_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_user_config(tmp_path)
    judge(str(caught.value), "cannot be read: Is a directory")


@pytest.mark.parametrize(("text", "expected"), OVERRIDES, ids=range(len(OVERRIDES)))
def test_overrides(
    root: Path,
    text: str,
    expected: str | None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(root)
    if expected is None:
        main(["status", "--overrides", text])
        return
    with pytest.raises(SystemExit) as ended:
        main(["status", "--overrides", text])
    assert ended.value.code == 2
    judge(capsys.readouterr().err.removesuffix("\n"), expected)


@pytest.mark.parametrize(("line", "expected"), COMMANDS, ids=range(len(COMMANDS)))
def test_command_lines(
    root: Path,
    line: str,
    expected: str | None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(root)
    if expected is None:
        parser().parse_args(line.split())
        return
    before = sorted(root.rglob("*"))
    with pytest.raises(SystemExit) as ended:
        main(line.split())
    assert ended.value.code == 2
    judge(capsys.readouterr().err.removesuffix("\n"), expected)
    assert sorted(root.rglob("*")) == before
