"""Files of the Hugging Face hub at a pinned commit, and one sentence for whatever goes wrong.

Only whole commit ids are accepted: a branch or a tag can move, a commit cannot. What was fetched
once is found again without a network.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

_COMMIT = re.compile(r"[0-9a-f]{40}")


class HubError(RuntimeError):
    """Files that cannot be had from the hub; one sentence with the repository and the remedy."""


def snapshot(
    kind: Literal["model", "dataset"], repo: str, revision: str, patterns: Sequence[str]
) -> Path:
    """Return the local folder with the files of a repository at one commit.

    Args:
        patterns: globs of the files wanted; nothing else is fetched.

    Raises:
        HubError: the revision is no commit id or not there, the repository is gated or missing,
            the hub cannot be reached, or no file matches.
    """
    if _COMMIT.fullmatch(revision) is None:
        raise HubError(
            f"{kind} {repo}: revision '{revision}' is not a commit id of 40 hex digits; branches "
            "and tags move, so name the commit."
        )
    # Here and not above: planning a suite must not need this library.
    from huggingface_hub import errors, snapshot_download

    page = f"https://huggingface.co/{'datasets/' if kind == 'dataset' else ''}{repo}"
    try:
        folder = Path(
            snapshot_download(
                repo, repo_type=kind, revision=revision, allow_patterns=list(patterns)
            )
        )
    except errors.GatedRepoError:
        raise HubError(
            f"{kind} {repo} is gated; accept its terms at {page}, then log in with `hf auth login`."
        ) from None
    except errors.RepositoryNotFoundError:
        raise HubError(
            f"{kind} {repo} is not on the hub, or your account may not see it; correct its name "
            "or log in with `hf auth login`."
        ) from None
    except errors.RevisionNotFoundError:
        raise HubError(
            f"{kind} {repo} has no commit {revision} any more; its history was rewritten: look at "
            f"{page} and pin another commit."
        ) from None
    except (errors.LocalEntryNotFoundError, errors.HfHubHTTPError, OSError) as error:
        cause = " ".join(str(error).split())[:160]
        raise HubError(
            f"{kind} {repo} is not on this machine and the hub cannot be reached ({cause}); "
            "connect once and start again, or name a local folder."
        ) from None
    if folder.name != revision:
        raise HubError(
            f"{kind} {repo}: the hub returned commit {folder.name} where {revision} is pinned; "
            "pin the commit you mean."
        )
    if not any(path.is_file() for pattern in patterns for path in folder.glob(pattern)):
        raise HubError(
            f"{kind} {repo} has no file like {', '.join(patterns)} at commit {revision[:12]}; "
            "pin a commit that has."
        )
    return folder
