"""Rollouts through vLLM, in the trainer's own process. Of several ranks each has an engine.

Weights never go through a file: the engine starts with random ones, and :meth:`VllmEngine.sync`
pushes the trainer's merged tensors. That is done with vLLM's ``reload_weights``, not with the
model's ``load_weights``: on a CPU (and for some kernels on a GPU) vLLM multiplies with a packed
copy of each matrix, which ``load_weights`` alone would leave at the old values. It takes one weight
after another and holds it until its layer of the engine is complete, so weights that are sharded
are gathered one by one. After each push :mod:`bridge.engines.agreement` compares log-probs.

Ranks under DeepSpeed have a process group already, which vLLM would take for its own and find too
large for one engine. Its ``external_launcher`` is made for this: engines of one rank each in a
world of several, which sample independently of each other.

What is sampled is the policy's whole distribution at the temperature: top-p 1, no top-k, no
penalties, and nothing of the checkpoint's ``generation_config.json``. vLLM's own default is to
return log-probs before the temperature; ``processed_logprobs`` are those of the distribution that
was drawn from, which is what the trainer computes.

Left out: entropies. vLLM returns the log-probs of chosen tokens, not of the whole vocabulary, so
there is no exact entropy and :attr:`Completion.entropies` is None.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from bridge.engines.agreement import check_agreement
from bridge.step.protocols import Weights
from bridge.step.rollouts import Completion, Prompt
from bridge.store.records import RecordError

_SETTINGS = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # The engine must see the trainer's tensors.
    "VLLM_NO_USAGE_STATS": "1",  # Otherwise it reports to its makers.
    "VLLM_LOGGING_LEVEL": "ERROR",
}


class VllmEngine:
    """The :class:`~bridge.step.rollouts.Engine` for real models.

    Args:
        folder: a checkpoint; its configuration, and its weights where none are pushed.
        end_token_ids: tokens that end an answer.
        dtype: of weights and activations; the trainer's, so that log-probs agree.
        kv_cache_gib: memory for keys and values. More lets more rows decode at once.
        trained: weights under training, pushed at each sync; None: the checkpoint's, for good.

    Raises:
        RecordError: vLLM is not installed, or cannot start with this checkpoint and memory.
    """

    def __init__(
        self,
        folder: Path,
        *,
        end_token_ids: Sequence[int],
        dtype: torch.dtype,
        kv_cache_gib: float,
        trained: Weights | None = None,
    ) -> None:
        self._end_token_ids = list(end_token_ids)
        self._trained = trained
        # Of the weights nothing is kept while asleep: they are pushed anew. Without a trainer
        # there is nobody to make room for. vLLM cannot sleep on a CPU.
        self._can_sleep = trained is not None and torch.cuda.is_available()
        self._asleep = False
        several = trained is not None and trained.ranks.size > 1
        self._llm = _start(
            model=str(folder),
            dtype=str(dtype).removeprefix("torch."),
            load_format="safetensors" if trained is None else "dummy",
            kv_cache_memory_bytes=int(kv_cache_gib * 2**30),
            # Beside a given cache size this only says how much must be free: 92 % by default, which
            # a device that also holds a trainer never has.
            gpu_memory_utilization=0.01,
            max_model_len=-1,  # the model's context, or what the memory holds of it
            enable_sleep_mode=self._can_sleep,
            enforce_eager=not torch.cuda.is_available(),
            distributed_executor_backend="external_launcher" if several else None,
        )
        if several:  # as it goes it would take down the process group, which is the trainer's
            self._llm.llm_engine.engine_core._finalizer.detach()
        self.context_tokens = int(self._llm.model_config.max_model_len)
        """Longest prompt with its answer."""
        self.sync()

    def sync(self) -> None:
        if self._trained is not None and not self._asleep:
            self._push(self._trained)
            check_agreement(self._trained, self._logprobs)

    def _push(self, trained: Weights) -> None:
        self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": trained.gathered()})
        self._llm.apply_model(_repack_head)

    def _logprobs(self, ids: Sequence[int]) -> list[float]:
        """Log-probs [len(ids) - 1] of tokens, each after those before it, at temperature 1."""
        from vllm import SamplingParams, TokensPrompt

        # prompt_logprobs makes vLLM compute what its cache of prefixes has.
        asked = SamplingParams(prompt_logprobs=0, max_tokens=1, detokenize=False)
        (output,) = self._llm.generate(
            [TokensPrompt(prompt_token_ids=list(ids))], [asked], use_tqdm=False
        )
        return [
            float(at[token].logprob)
            for at, token in zip(output.prompt_logprobs[1:], ids[1:], strict=True)
        ]

    def sleep(self) -> None:
        if self._can_sleep and not self._asleep:
            self._llm.sleep(level=2)
            self._asleep = True

    def wake(self) -> None:
        if self._trained is not None and self._asleep:
            self._llm.wake_up(tags=["weights"])
            self._push(self._trained)
            self._llm.wake_up(tags=["kv_cache"])
            self._asleep = False
            check_agreement(self._trained, self._logprobs)

    def generate(
        self, prompts: Sequence[Prompt], *, max_new_tokens: int, temperature: float
    ) -> list[list[Completion]]:
        """See :class:`~bridge.step.rollouts.Engine`.

        Raises:
            RecordError: a prompt and its answer are longer than the context.
        """
        from vllm import SamplingParams, TokensPrompt

        longest = max((len(p.ids) for p in prompts), default=0) + max_new_tokens
        if longest > self.context_tokens:  # vLLM would cut the answer and not say so
            raise RecordError(
                f"a prompt and its answer of up to {max_new_tokens} tokens need {longest} tokens, "
                f"but vLLM's context is {self.context_tokens}; lower max_response_tokens or raise "
                "kv_cache_gib."
            )
        self.wake()
        if not prompts:  # of several ranks one may have nothing to draw
            return []
        # Cached prefixes hold keys and values of older weights; and with an empty cache what is
        # drawn does not depend on what was drawn before, so a resumed run equals its original.
        if not self._llm.reset_prefix_cache():
            raise RecordError("vLLM did not empty its prefix cache, so old weights could answer.")
        outputs = self._llm.generate(
            [TokensPrompt(prompt_token_ids=list(p.ids)) for p in prompts for _ in p.seeds],
            [
                SamplingParams(
                    temperature=temperature,
                    top_p=1.0,
                    top_k=0,
                    seed=seed,
                    max_tokens=max_new_tokens,
                    logprobs=0,  # of the drawn token alone
                    # Our ends only: vLLM adds those of generation_config.json to its own.
                    ignore_eos=True,
                    stop_token_ids=self._end_token_ids,
                    detokenize=False,
                )
                for p in prompts
                for seed in p.seeds
            ],
            use_tqdm=False,
        )
        drawn = iter(outputs)
        return [[_completion(next(drawn).outputs[0]) for _ in p.seeds] for p in prompts]


def _start(**options: Any) -> Any:
    """Start vLLM's engine in this process."""
    os.environ.update(_SETTINGS)
    if not torch.cuda.is_available():
        torch._dynamo.config.disable = True  # else its sampler is compiled by the machine's g++
    set_num_threads = torch.set_num_threads
    try:
        from vllm import LLM, SamplingParams, TokensPrompt

        llm = LLM(
            skip_tokenizer_init=True,  # ids in, ids out
            trust_remote_code=False,
            generation_config="vllm",
            logprobs_mode="processed_logprobs",
            disable_log_stats=True,
            **options,
        )
        # A model that this device has no kernel for fails here, not at a run's first step.
        llm.generate(
            [TokensPrompt(prompt_token_ids=[0])],
            SamplingParams(max_tokens=1, detokenize=False),
            use_tqdm=False,
        )
        return llm
    except ImportError as error:
        raise RecordError(
            f"vLLM cannot be imported ({error}); use the environment of envs/gpu.txt or "
            "envs/vllm-cpu.txt, or set engine: native."
        ) from error
    except (RuntimeError, ValueError) as error:
        cause = " ".join(str(error).split())[:300]
        raise RecordError(f"vLLM cannot start on {options['model']}: {cause}") from error
    finally:
        torch.set_num_threads = set_num_threads  # on a CPU vLLM puts a function that does nothing


def _repack_head(model: Any) -> None:
    """Pack the output matrix anew: where it is the embedding's, a reload leaves the old copy."""
    model.lm_head.quant_method.process_weights_after_loading(model.lm_head)


def _completion(output: Any) -> Completion:
    ids = tuple(output.token_ids)
    return Completion(
        ids=ids,
        logprobs=tuple(
            float(at[token].logprob) for at, token in zip(output.logprobs, ids, strict=True)
        ),
        entropies=None,
        truncated=output.finish_reason == "length",
    )
