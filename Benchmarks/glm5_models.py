"""A GLM-5 checkpoint of about a billion random parameters, for speed alone: the shape is the published one, smaller."""

import json
import os
import pathlib
import random
import struct

CONFIG = {
    "architectures": ["GlmMoeDsaForCausalLM"], "model_type": "glm_moe_dsa", "dtype": "bfloat16", "vocab_size": 32768,
    "hidden_size": 1024, "num_hidden_layers": 12, "first_k_dense_replace": 1, "intermediate_size": 3072,
    "num_attention_heads": 16, "num_key_value_heads": 16, "head_dim": 32, "q_lora_rank": 512, "kv_lora_rank": 256,
    "qk_nope_head_dim": 64, "qk_rope_head_dim": 32, "qk_head_dim": 96, "v_head_dim": 64, "index_n_heads": 8,
    "index_head_dim": 64, "index_topk": 512, "indexer_rope_interleave": True, "n_routed_experts": 32,
    "num_experts_per_tok": 4, "n_shared_experts": 1, "moe_intermediate_size": 768, "scoring_func": "sigmoid",
    "topk_method": "noaux_tc", "norm_topk_prob": True, "routed_scaling_factor": 2.5, "n_group": 1, "topk_group": 1,
    "num_nextn_predict_layers": 1, "rms_norm_eps": 1e-05, "rope_interleave": True, "hidden_act": "silu",
    "rope_parameters": {"rope_theta": 1000000, "rope_type": "default"}, "max_position_embeddings": 8192,
    "tie_word_embeddings": False, "attention_bias": False, "eos_token_id": [1], "pad_token_id": 1,
}  # fmt: skip


def layer_shapes(config, index, is_draft=False):
    c = config
    hidden, heads, ranks = c["hidden_size"], c["num_attention_heads"], (c["q_lora_rank"], c["kv_lora_rank"])
    nope, rope, value = c["qk_nope_head_dim"], c["qk_rope_head_dim"], c["v_head_dim"]
    ih, idim = c["index_n_heads"], c["index_head_dim"]
    own = {
        "input_layernorm.weight": [hidden], "post_attention_layernorm.weight": [hidden],
        "self_attn.q_a_proj.weight": [ranks[0], hidden], "self_attn.q_a_layernorm.weight": [ranks[0]],
        "self_attn.q_b_proj.weight": [heads * (nope + rope), ranks[0]],
        "self_attn.kv_a_proj_with_mqa.weight": [ranks[1] + rope, hidden],
        "self_attn.kv_a_layernorm.weight": [ranks[1]],
        "self_attn.kv_b_proj.weight": [heads * (nope + value), ranks[1]],
        "self_attn.o_proj.weight": [hidden, heads * value],
        "self_attn.indexer.wq_b.weight": [ih * idim, ranks[0]], "self_attn.indexer.wk.weight": [idim, hidden],
        "self_attn.indexer.k_norm.weight": [idim], "self_attn.indexer.k_norm.bias": [idim],
        "self_attn.indexer.weights_proj.weight": [ih, hidden],
    }  # fmt: skip
    if index < c["first_k_dense_replace"]:
        mlps = {"mlp": c["intermediate_size"]}
    else:
        size = c["moe_intermediate_size"]
        mlps = {f"mlp.experts.{expert}": size for expert in range(c["n_routed_experts"])}
        mlps["mlp.shared_experts"] = size * c["n_shared_experts"]
        own["mlp.gate.weight"] = [c["n_routed_experts"], hidden]
        own["mlp.gate.e_score_correction_bias"] = [c["n_routed_experts"]]
    for name, size in mlps.items():
        own |= {f"{name}.gate_proj.weight": [size, hidden], f"{name}.up_proj.weight": [size, hidden]}
        own |= {f"{name}.down_proj.weight": [hidden, size]}
    if is_draft:
        own |= {"enorm.weight": [hidden], "hnorm.weight": [hidden], "shared_head.norm.weight": [hidden]}
        own |= {"eh_proj.weight": [hidden, 2 * hidden]}
    return {f"model.layers.{index}.{name}": shape for name, shape in own.items()}


def shapes(config):
    hidden, vocabulary, layers = config["hidden_size"], config["vocab_size"], config["num_hidden_layers"]
    everything = {"model.embed_tokens.weight": [vocabulary, hidden], "lm_head.weight": [vocabulary, hidden]}
    everything["model.norm.weight"] = [hidden]
    for index in range(layers + 1):
        everything |= layer_shapes(config, index, is_draft=index == layers)
    return everything


def count(shape):
    total = 1
    for length in shape:
        total *= length
    return total


def bf16(value):
    return struct.pack("<H", struct.unpack("<I", struct.pack("<f", value))[0] >> 16)


def write(folder, config=CONFIG):
    """Writes the checkpoint unless it is there. Weights come from one block of random ones: only their bytes matter."""
    folder = pathlib.Path(folder)
    if (folder / "config.json").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    dice = random.Random(1)
    values = [bf16(dice.gauss(0, 0.03)) for _ in range(4096)]
    block = b"".join(dice.choices(values, k=1 << 21))
    one = bf16(1.0)
    tensors, offset = {}, 0
    for name, shape in shapes(config).items():
        wide = name.endswith("correction_bias")
        size = count(shape) * (4 if wide else 2)
        tensors[name] = {"dtype": "F32" if wide else "BF16", "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    header = json.dumps(tensors).encode()
    header += b" " * (-len(header) % 8)
    with open(folder / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        for name, tensor in tensors.items():
            begin, end = tensor["data_offsets"]
            left = end - begin
            if name.endswith(("norm.weight", "layernorm.weight")):
                file.write(one * (left // 2))
                continue
            if name.endswith("correction_bias"):
                file.write(bytes(left))
                continue
            # Elsewhere in the block each time, so that experts differ.
            start = 2 * dice.randrange(len(block) // 2)
            while left > 0:
                part = block[start : start + left]
                file.write(part)
                left -= len(part)
                start = 0
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    return folder


def parameters(config=CONFIG):
    return sum(count(shape) for shape in shapes(config).values())


if __name__ == "__main__":
    print(f"{parameters():,} parameters", os.linesep, end="")
