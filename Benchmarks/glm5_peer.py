#!/usr/bin/env python3
"""Prefill and decode tokens/s of transformers' GLM-5 on PyTorch: one line of JSON.

    Benchmarks/glm5_peer.py FOLDER --threads N --prompt P --generate G --repetitions R --dtype float32|bfloat16
"""

import argparse
import json
import random
import time

import torch
import transformers


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    for name in ("threads", "prompt", "generate", "repetitions"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--dtype", required=True)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    transformers.logging.set_verbosity_error()
    model = transformers.GlmMoeDsaForCausalLM.from_pretrained(chosen.folder, dtype=getattr(torch, chosen.dtype)).eval()
    prefill, decode = [], []
    with torch.inference_mode():
        for repetition in range(chosen.repetitions + 1):
            dice = random.Random(repetition)
            tokens = torch.tensor([[dice.randrange(model.config.vocab_size) for _ in range(chosen.prompt)]])
            cache = transformers.DynamicCache(config=model.config)
            began = time.perf_counter()
            model(tokens, past_key_values=cache, use_cache=True, logits_to_keep=1)
            middle = time.perf_counter()
            # From a short context, as ours: a prompt of 16.
            cache = transformers.DynamicCache(config=model.config)
            last = model(tokens[:, :16], past_key_values=cache, use_cache=True, logits_to_keep=1).logits[:, -1]
            start = time.perf_counter()
            for _ in range(chosen.generate):
                last = model(last.argmax(-1)[:, None], past_key_values=cache, use_cache=True).logits[:, -1]
            end = time.perf_counter()
            if repetition:
                prefill.append(chosen.prompt / (middle - began))
                decode.append(chosen.generate / (end - start))
    print(json.dumps({"prefill_tokens_per_s": prefill, "decode_tokens_per_s": decode, "dtype": chosen.dtype}))


if __name__ == "__main__":
    main()
