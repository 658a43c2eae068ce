"""What holds for every method, tried on one: ``bridge test-method``.

Tiny runs of the suite ``smoke``. The tests of this repository try more on its own methods; here is
what an author of another one can get wrong without seeing it in a score.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bridge.methods.registry import load_method
from bridge.models.preparing import prepare_base
from bridge.plan.grid import RunSpec, load_plan
from bridge.run.loop import train_run
from bridge.store.records import SHIPPED, RunFolder, base_folder, file_hash, read_jsonl
from bridge.store.schema import Closed, ConfigError, check_name
from bridge.store.settings import TinyModel

_STEPS = 6
"""For each number of steps that a method's options ask for."""
_ROUNDING = 1e-3
"""Largest relative difference of a gradient's norm, in float32, between two ways to cut a batch."""
_KILL_S = 300.0


class Broken(Exception):
    """A part of the contract does not hold; one sentence."""


def name_of(method: str) -> str:
    """How a suite calls a method: by its name, or the name of a file below the working folder.

    Raises:
        ConfigError: there is no such file, it lies elsewhere, or the name is none.
    """
    if not method.endswith(".py"):
        return check_name(method)
    path = Path(method).resolve()
    if not path.is_file() or not path.is_relative_to(Path.cwd()):
        raise ConfigError(f"{method} is no file below {Path.cwd()}; go to the folder above it.")
    parts = path.relative_to(Path.cwd()).with_suffix("").parts
    if not all(part.isidentifier() for part in parts):
        raise ConfigError(f"{method}: Python cannot import a file or folder of such a name.")
    return ".".join(parts) if len(parts) > 1 else path.name


def has_checkpoint(folder: RunFolder) -> bool:
    """Whether a run has written a checkpoint; one that is being written begins with a dot."""
    return any(folder.resume.glob("step*/manifest.json"))


class Contract:
    """Checks of a method in a folder for its runs."""

    def __init__(self, method: str, options: dict[str, Any], folder: Path) -> None:
        self.method, self.folder = method, folder
        fields = load_method(method).Options.model_fields
        steps = {name: _STEPS for name, field in fields.items() if field.is_required()}
        self.options = {**steps, **options}

    def closed_options(self) -> str:
        """A typing error in an option is refused."""
        if not issubclass(load_method(self.method).Options, Closed):
            raise Broken("Options is not a subclass of bridge.store.schema.Closed")
        return ", ".join(load_method(self.method).Options.model_fields)

    def planned_without_torch(self) -> str:
        """A plan of thousands of runs must not load it."""
        code = f"import sys, bridge.methods.registry as r; r.load_method({self.method!r}); "
        code += "sys.exit('torch' in sys.modules)"
        if subprocess.run([sys.executable, "-c", code], check=False).returncode:
            raise Broken("importing it loads torch; import torch inside the functions that need it")
        return "torch is not imported"

    def trains(self) -> str:
        """Each step has a gradient, and it is a number."""
        norms = self._norms(self._run("whole"))
        if not any(norms):
            raise Broken(f"all {len(norms)} gradients are zero")
        return f"{len(norms)} steps"

    def repeats(self) -> str:
        """The same seed gives the same bytes."""
        self._compare(self._run("again"), "a second run with the same seed")
        return "log and weights have the same bytes"

    def survives(self) -> str:
        """Killed after a checkpoint and started again, it ends with the same bytes."""
        self._link("killed")
        folder = self._spec().folder(self.folder / "killed")
        asked = json.dumps([self.method, self.options, str(self.folder)])
        command = [sys.executable, "-m", __name__, asked]
        begin = time.monotonic()
        with subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        ) as job:
            while job.poll() is None and not has_checkpoint(folder):
                if time.monotonic() - begin > _KILL_S:
                    break
                time.sleep(0.01)
            job.kill()
            said = job.communicate()[1].strip()
        if folder.done.exists() or not folder.resume.exists():
            why = said.rpartition("\n")[2] if said else "no reason was given"
            raise Broken(f"it could not be killed after its first checkpoint ({why})")
        self._compare(self._run("killed"), "a run that was killed and started again")
        return "log and weights have the same bytes"

    def counts_globally(self) -> str:
        """How a batch is cut into micro-batches does not change the first gradient."""
        cut = self._norms(self._run("cut", micro_batch_rows=2))[0]
        whole = self._norms(self._run("whole"))[0]
        if abs(cut - whole) > _ROUNDING * abs(whole):
            raise Broken(
                f"the first gradient's norm is {whole:.6g}, and {cut:.6g} in micro-batches of two "
                "rows: a mean is taken over a micro-batch and not over the whole batch"
            )
        return f"differ by {abs(cut / whole - 1):.0e}" if whole else "both are zero"

    def _overrides(self, **training: Any) -> dict[str, Any]:
        row = {"method": self.method, "options": self.options}
        block = {"models": ["tiny-qwen"], "datasets": ["chains"], "methods": ["tested"]}
        return {
            "methods": {"tested": row},
            "training": {"probe_every": 1000, "checkpoint_every": 1, **training},
            "grid": [{**block, "seeds": [0]}],
        }

    def _spec(self, **training: Any) -> RunSpec:
        overrides = self._overrides(**training)
        (spec,) = load_plan("smoke", root=SHIPPED, overrides=overrides).runs
        return spec

    def _link(self, name: str) -> None:
        """The base model, made once, where the runs of a results folder look for it."""
        spec = self._spec()
        made = base_folder(self.folder / "base", spec.suite, spec.model)
        if not made.is_dir():
            assert isinstance(spec.model_config, TinyModel)
            prepare_base(spec.model, spec.model_config, made, 1)
        place = base_folder(self.folder / name, spec.suite, spec.model)
        if not place.exists():
            place.parent.mkdir(parents=True)
            place.symlink_to(made.resolve())

    def _run(self, name: str, **training: Any) -> RunFolder:
        self._link(name)
        spec = self._spec(**training)
        train_run(spec, results=self.folder / name, threads=1)
        return spec.folder(self.folder / name)

    def _norms(self, folder: RunFolder) -> list[float]:
        """The norm of each step's gradient.

        Raises:
            Broken: there is no step, or one without such a number.
        """
        found = [line.get("grad_norm") for line in read_jsonl(folder.dynamics)[1:]]
        norms = [math.nan if norm is None else float(norm) for norm in found]
        bad = [i for i, norm in enumerate(norms, 1) if not math.isfinite(norm)]
        if not norms or bad:
            raise Broken(f"steps {bad} of {len(norms)} have no finite grad_norm")
        return norms

    def _compare(self, found: RunFolder, what: str) -> None:
        whole = self._run("whole")
        if found.dynamics.read_bytes() != whole.dynamics.read_bytes():
            raise Broken(f"{what} wrote another dynamics.jsonl: is there state outside state_dict?")
        weights = [file_hash(f.policy / "model.safetensors") for f in (found, whole)]
        if weights[0] != weights[1]:
            raise Broken(f"{what} ended with other weights")


def check_method(method: str, options: dict[str, Any], say: Callable[[str], None] = print) -> bool:
    """Try the contract on a method and say what holds; whether all of it does.

    Raises:
        ConfigError: there is no such method, or its options are refused.
    """
    with tempfile.TemporaryDirectory(prefix="test-method-") as text:
        contract = Contract(name_of(method), options, Path(text))
        contract._spec()
        kept = True
        for check in (
            contract.closed_options,
            contract.planned_without_torch,
            contract.trains,
            contract.repeats,
            contract.survives,
            contract.counts_globally,
        ):
            name = check.__name__.replace("_", " ")
            try:
                say(f"ok    {name}: {check()}")
            except Broken as error:
                kept = False
                say(f"FAIL  {name}: {error}.")
    return kept


if __name__ == "__main__":  # the run that is killed
    _method, _options, _folder = json.loads(sys.argv[1])
    Contract(_method, _options, Path(_folder))._run("killed")
