"""The scripts of profiles/kubernetes, against a kubectl that notes what it is told."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

Script = Callable[..., subprocess.CompletedProcess[str]]
PLACE = {"BRIDGE_IMAGE": "image:1", "BRIDGE_CLAIM": "claim", "BRIDGE_MOUNT": "/shared"}
KUBECTL = """#!/bin/sh
echo "$@" >> "$NOTES/said"
case "$1" in
create) cat > "$NOTES/manifest" ;;
get) printf "%s" "$ANSWER"; [ "$ANSWER" != down ] ;;
esac
"""


@pytest.fixture
def script(root: Path, tmp_path: Path) -> Script:
    """Run one of the scripts in a folder of its own."""
    kubectl = tmp_path / "kubectl"
    kubectl.write_text(KUBECTL, encoding="utf-8")
    kubectl.chmod(0o755)

    def run(name: str, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        path = f"{tmp_path}:{os.environ['PATH']}"
        return subprocess.run(
            [root / "profiles" / "kubernetes" / f"{name}.sh", *words],
            cwd=tmp_path,
            env={"PATH": path, "NOTES": str(tmp_path), **environment},
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def test_a_job_script_becomes_a_job_on_the_shared_folder(script: Script, tmp_path: Path) -> None:
    job = tmp_path / "jobscript.sh"
    job.write_text("exit 0", encoding="utf-8")
    done = script("submit", "4", "64000", "2", str(job), **PLACE)
    assert done.returncode == 0, done.stderr
    name = done.stdout.strip()
    manifest = yaml.safe_load((tmp_path / "manifest").read_text(encoding="utf-8"))
    assert manifest["kind"] == "Job" and manifest["metadata"]["name"] == name
    assert len(name) <= 63 and name.replace("-", "").isalnum()
    pod = manifest["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["image"] == "image:1" and container["workingDir"] == str(tmp_path)
    assert container["resources"] == {
        "requests": {"cpu": "4", "memory": "64000M"},
        "limits": {"memory": "64000M", "nvidia.com/gpu": "2"},
    }
    assert {"name": "shared", "mountPath": "/shared"} in container["volumeMounts"]
    assert pod["volumes"][0]["persistentVolumeClaim"] == {"claimName": "claim"}
    # A pod that starts again finds its script after Snakemake's temporary folder is gone.
    job.unlink()
    assert Path(container["command"][-1]).read_text(encoding="utf-8") == "exit 0"
    assert pod["restartPolicy"] == "Never" and manifest["spec"]["backoffLimit"] > 0


@pytest.mark.parametrize("missing", list(PLACE))
def test_what_is_not_filled_in_is_named(script: Script, tmp_path: Path, missing: str) -> None:
    given = {name: value for name, value in PLACE.items() if name != missing}
    done = script("submit", "1", "2000", "0", "script", **given)
    assert done.returncode != 0 and missing in done.stderr
    assert not (tmp_path / "manifest").exists()


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("", "running"),
        ("SuccessCriteriaMet Complete ", "success"),
        ("FailureTarget ", "running"),
        ("FailureTarget Failed ", "failed"),
        ("down", "running"),
    ],
)
def test_the_state_of_a_job_is_one_word(script: Script, answer: str, said: str) -> None:
    assert script("status", "bridge-1", ANSWER=answer).stdout.split() == [said]


def test_cancelling_deletes_the_jobs(script: Script, tmp_path: Path) -> None:
    assert script("cancel", "bridge-1", "bridge-2").returncode == 0
    said = (tmp_path / "said").read_text(encoding="utf-8")
    assert said == "delete job --wait=false bridge-1 bridge-2\n"
