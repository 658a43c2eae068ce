"""``bridge push``: a published folder, checked once more, as a data set on the Hugging Face hub.

Nothing leaves this machine without ``--yes``. The repository is made if it is not there, private;
it is opened to others on its page. One that holds anything but such a folder is left alone. The
token is that of ``HF_TOKEN``, and no other place is looked at.
"""

from __future__ import annotations

import glob
import os
from pathlib import Path

from bridge.jobs.verifying import SUMS, read_sums, verify

TOKEN = "HF_TOKEN"


class PushError(RuntimeError):
    """A folder that cannot be uploaded; one sentence with the repository and the remedy."""


def push(folder: Path, repo: str, *, confirmed: bool) -> str:
    """Upload a published folder; return what was done, or without ``confirmed`` what would be.

    An upload that was cut off goes on when it is asked for again.

    Raises:
        VerifyError: see :func:`bridge.jobs.verifying.verify`.
        PushError: there is no token, the hub refuses, or the repository holds other files.
    """
    n_files = verify(folder)
    names = {SUMS, *read_sums(folder)}
    size = sum((folder / name).stat().st_size for name in names)
    what = f"{n_files + 1} files ({size / 1e6:.2f} MB) of {folder}"
    if not confirmed:
        return f"{what} would go to the data set {repo}; add --yes to upload them."
    token = os.environ.get(TOKEN)
    if not token:
        raise PushError(f"{TOKEN} is not set; set it to a token that may write to {repo}.")
    # Here and not above: to be told what would be done must not need this library.
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    try:
        api.create_repo(repo, repo_type="dataset", private=True, exist_ok=True)
        held = set(api.list_repo_files(repo, repo_type="dataset"))
        if others := sorted(held - names - {".gitattributes"}):
            raise PushError(f"{repo} holds {others[0]}, which {folder} has not; name a new one.")
        if (there := sorted(held & names)) and SUMS not in held:
            raise PushError(
                f"{repo} holds {there[0]}, but no {SUMS}, so it is not such a folder; name a "
                "new one."
            )
        patterns = [glob.escape(name) for name in sorted(names)]
        api.upload_folder(
            repo_id=repo, folder_path=folder, repo_type="dataset", allow_patterns=patterns
        )
    except PushError:
        raise
    except Exception as error:  # also what its client raises, which is another in each version
        cause = " ".join(str(error).split())[:200]
        raise PushError(f"{repo}: the hub did not take the files ({cause}).") from None
    return f"{what} are in the data set {repo}"
