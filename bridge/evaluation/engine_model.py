"""A rollout engine as an lm-eval model: benchmarks are answered by what drew the rollouts.

lm-eval has a ``vllm`` model of its own. It is not used here: it returns text without saying whether
an answer was cut or how many tokens it took, cuts a prompt that is too long, and gives all samples
of a run one seed.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from safetensors import safe_open
from transformers import AutoConfig

from bridge.engines.vllm import VllmEngine
from bridge.evaluation import EvaluationError
from bridge.evaluation.checkpoint import check_checkpoint
from bridge.evaluation.model import Generated
from bridge.models.checkpoint import end_token_ids, load_tokenizer
from bridge.models.prompts import opens_thinking
from bridge.step.protocols import Engine
from bridge.step.rollouts import Prompt
from bridge.store.seeds import derive_seed

_UNALTERED = {"until": [], "top_p": 1.0, "top_k": 0, "repetition_penalty": 1.0}
"""Generation settings of a task that an engine knows no other value of."""


class EnginePolicy(LM):
    """A checkpoint under evaluation; ``generated`` describes the answers of the last request."""

    def __init__(self, folder: Path, engine: Engine, tokenizer: Any) -> None:
        super().__init__()
        self.folder, self.engine, self.tokenizer = folder, engine, tokenizer
        self.generated: list[Generated] = []
        self.prompt_opens_thinking = opens_thinking(self.tokenizer)

    @property
    def tokenizer_name(self) -> str:
        """For lm-eval's cache of requests, which is not used."""
        return self.folder.name

    @property
    def n_parameters(self) -> int:
        """Number of parameters; tied ones count once."""
        total = 0
        for path in self.folder.glob("*.safetensors"):
            with safe_open(path, framework="pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118 (not a mapping)
                    size = 1
                    for n in tensors.get_slice(name).get_shape():
                        size *= n
                    total += size
        return total

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """Render a conversation as in training."""
        return str(
            self.tokenizer.apply_chat_template(
                chat_history, tokenize=False, add_generation_prompt=add_generation_prompt
            )
        )

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Answer each request; see :class:`lm_eval.api.model.LM`.

        The seed of a sampled answer is named by torch's seed, the prompt and the number of times
        that the same prompt came before, so it does not depend on the order of the questions.
        """
        prompts, settings, seen = [], {}, Counter[str]()
        for request in requests:
            text, wanted = request.args
            seed = derive_seed("answer", torch.initial_seed(), text, seen[text])
            seen[text] += 1
            ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
            prompts.append(Prompt(tuple(ids), (seed,)))
            settings[str(sorted(wanted.items(), key=str))] = dict(wanted)
        (wanted,) = settings.values()  # the task set decides them once for all its benchmarks
        for name, value in _UNALTERED.items():
            if wanted.pop(name, value) != value:
                raise EvaluationError(
                    f"The task asks for another {name} than {value}, which evaluation.engine: vllm "
                    "does not do; use hf."
                )
        sampled, temperature = wanted.pop("do_sample"), wanted.pop("temperature", 1.0)
        drawn = self.engine.generate(
            prompts,
            max_new_tokens=wanted.pop("max_gen_toks"),
            temperature=temperature if sampled else 0.0,
        )
        if wanted:
            raise EvaluationError(
                f"The task sets {', '.join(sorted(wanted))}, which evaluation.engine: vllm does "
                "not know; use hf."
            )
        answers = [completion for (completion,) in drawn]
        if any(x != x for answer in answers for x in answer.logprobs):
            raise EvaluationError(
                f"The checkpoint in {self.folder} gives log-probs that are not numbers; train the "
                "run again."
            )
        self.generated = [
            Generated(len(answer.ids), answer.truncated, len(prompt.ids))
            for prompt, answer in zip(prompts, answers, strict=True)
        ]
        return [str(self.tokenizer.decode(a.ids, skip_special_tokens=True)) for a in answers]

    @property
    def device(self) -> str:
        """What the engine runs on."""
        return "cuda" if torch.cuda.is_available() else "cpu"

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> Any:
        raise NotImplementedError("our benchmarks generate")

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> Any:
        raise NotImplementedError("our benchmarks generate")


def vllm_policy(folder: Path, *, kv_cache_gib: float) -> EnginePolicy:
    """Load a checkpoint into vLLM.

    Raises:
        EvaluationError, RecordError: no usable checkpoint, or vLLM cannot start with it.
    """
    check_checkpoint(folder)
    tokenizer = load_tokenizer(folder)
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    engine = VllmEngine(
        folder,
        end_token_ids=end_token_ids(folder, tokenizer),
        dtype=config.dtype or torch.float32,
        kv_cache_gib=kv_cache_gib,
    )
    return EnginePolicy(folder, engine, tokenizer)
