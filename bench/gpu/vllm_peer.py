"""vLLM's side of the serve rows, in its own process: python -m bench.gpu.vllm_peer ASKED.json OUT.json

Its own defaults (CUDA graphs, compiled layers, asynchronous scheduling, prefix caching), token ids in and out. The first round is not counted;
the prefix cache is emptied before each, since training would have changed the weights.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any


def main() -> None:
    # Without FlashInfer's package its sampler cannot be asked for; and nobody is told of what was run.
    os.environ |= {"VLLM_USE_FLASHINFER_SAMPLER": "0", "VLLM_NO_USAGE_STATS": "1"}
    import vllm
    from vllm import LLM, SamplingParams
    from vllm.inputs import TokensPrompt

    asked = json.loads(Path(sys.argv[1]).read_text())
    workloads = asked["workloads"].values()
    longest = max(
        len(prompt) + new for one in workloads for prompt, new in zip(one["prompts"], one["new"], strict=True)
    )
    llm = LLM(
        model=asked["folder"],
        skip_tokenizer_init=True,
        dtype="bfloat16",
        max_model_len=longest + 1,
        max_num_seqs=min(1024, max(len(one["prompts"]) for one in workloads)),
        gpu_memory_utilization=0.9,
        seed=0,
    )

    def how(new: int, **more: Any) -> SamplingParams:
        return SamplingParams(temperature=1.0, max_tokens=new, ignore_eos=True, detokenize=False, **more)

    def measured(work: dict[str, Any]) -> dict[str, Any]:
        prompts = [TokensPrompt(prompt_token_ids=prompt) for prompt in work["prompts"]]
        one = llm.generate(prompts[:1], [how(work["new"][0], logprobs=0)], use_tqdm=False)[0].outputs[0]
        seconds = []
        for _ in range(asked["rounds"] + 1):
            llm.reset_prefix_cache()
            began = time.perf_counter()
            done = llm.generate(prompts, [how(new) for new in work["new"]], use_tqdm=False)
            seconds.append(time.perf_counter() - began)
            assert [len(request.outputs[0].token_ids) for request in done] == work["new"], "a request stopped early"
        return {
            "seconds": seconds[1:],
            "token_ids": list(one.token_ids),
            "logprobs": [at[token].logprob for token, at in zip(one.token_ids, one.logprobs, strict=True)],
        }

    Path(sys.argv[2]).write_text(
        json.dumps(
            {
                "version": vllm.__version__,
                "workloads": {name: measured(work) for name, work in asked["workloads"].items()},
            }
        )
    )


if __name__ == "__main__":
    main()
