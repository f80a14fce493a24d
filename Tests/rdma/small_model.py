#!/usr/bin/env python3
"""Writes a Llama of random weights into a folder: one that starts at once and computes little, with pages as large as
those of SmolLM2, so that a cluster on the guest's one processor spends its time on handing them over.

    Tests/rdma/small_model.py FOLDER
"""

import array
import json
import pathlib
import random
import shutil
import struct
import sys

TOKENIZER = pathlib.Path(__file__).resolve().parent.parent / "Fixtures" / "smollm2" / "tokenizer.json"
LAYERS, HIDDEN, HEADS, HEAD, WIDE, VOCABULARY = 16, 64, 4, 64, 128, 49152
CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": VOCABULARY, "hidden_size": HIDDEN,
    "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "num_key_value_heads": HEADS, "head_dim": HEAD,
    "intermediate_size": WIDE, "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
    "hidden_act": "silu", "tie_word_embeddings": True, "bos_token_id": 1, "eos_token_id": 2, "dtype": "bfloat16",
}  # fmt: skip
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def bf16(value):
    return struct.unpack("<I", struct.pack("<f", value))[0] >> 16


def weights(dice, shape, scale):
    """Normally distributed, of 4096 different values."""
    values = [bf16(dice.gauss(0, scale)) for _ in range(4096)]
    count = 1
    for length in shape:
        count *= length
    return array.array("H", dice.choices(values, k=count)).tobytes()


def tensors():
    yield "model.embed_tokens.weight", (VOCABULARY, HIDDEN), 1.0
    for layer in range(LAYERS):
        name = f"model.layers.{layer}"
        for norm in ("input_layernorm", "post_attention_layernorm"):
            yield f"{name}.{norm}.weight", (HIDDEN,), None
        for projection in ("q", "k", "v"):
            yield f"{name}.self_attn.{projection}_proj.weight", (HEADS * HEAD, HIDDEN), HIDDEN**-0.5
        yield f"{name}.self_attn.o_proj.weight", (HIDDEN, HEADS * HEAD), (HEADS * HEAD) ** -0.5
        for projection in ("gate", "up"):
            yield f"{name}.mlp.{projection}_proj.weight", (WIDE, HIDDEN), HIDDEN**-0.5
        yield f"{name}.mlp.down_proj.weight", (HIDDEN, WIDE), WIDE**-0.5
    yield "model.norm.weight", (HIDDEN,), None


def main(folder):
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    dice = random.Random(1)
    header, data = {}, bytearray()
    for name, shape, scale in tensors():
        start = len(data)
        data += array.array("H", [bf16(1.0)] * shape[0]).tobytes() if scale is None else weights(dice, shape, scale)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, len(data)]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    (folder / "config.json").write_text(json.dumps(CONFIG, indent=1))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "chat_template": TEMPLATE})
    )
    shutil.copy(TOKENIZER, folder / "tokenizer.json")
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
