"""A checkpoint that says what it is told to: one token follows another, whatever the prompt.

It lets the cluster serve a model that thinks and calls tools to the letter, before and apart from any model that does
so of its own accord. A Llama of one layer whose attention and MLP add nothing: a token's embedding goes to the output
head as it is, and the head of its successor is that embedding again.
"""

import array
import json
import pathlib
import shutil

FIXTURES = pathlib.Path(__file__).resolve().parents[1] / "Fixtures"
BUNDLED = pathlib.Path(__file__).resolve().parents[2] / "Models" / "glm5-nano"
WIDTH = 64
HEADS, KEY_VALUE_HEADS, INNER, ROWS = 8, 2, 64, 3072


def write(folder, chains, template):
    """Writes the checkpoint with glm5-nano's tokenizer. `chains` are lists of tokens, each naming its successor; no
    token may have two. The last of each chain should end the answer."""
    folder = pathlib.Path(folder)
    successor = {}
    for chain in chains:
        ids = [token_ids()[token] for token in chain]
        for token, following in zip(ids, ids[1:]):
            assert successor.setdefault(token, following) == following, f"two successors of {token}"
    assert len(successor) < WIDTH
    embeddings, head = zeros(ROWS, WIDTH), zeros(ROWS, WIDTH)
    for place, (token, following) in enumerate(successor.items(), start=1):
        # Rows of a Hadamard matrix: each is orthogonal to the others, and its root mean square is 1.
        row = [1.0 if (place & column).bit_count() % 2 == 0 else -1.0 for column in range(WIDTH)]
        embeddings[token * WIDTH : (token + 1) * WIDTH] = array.array("f", row)
        for column in range(WIDTH):
            head[following * WIDTH + column] += row[column] / 2
    inner = WIDTH * KEY_VALUE_HEADS // HEADS
    layer, norm = "model.layers.0", array.array("f", [1.0] * WIDTH)
    tensors = {
        "model.embed_tokens.weight": ([ROWS, WIDTH], embeddings),
        "lm_head.weight": ([ROWS, WIDTH], head),
        "model.norm.weight": ([WIDTH], norm),
        f"{layer}.input_layernorm.weight": ([WIDTH], norm),
        f"{layer}.post_attention_layernorm.weight": ([WIDTH], norm),
    }
    for name, shape in {
        "self_attn.q_proj": [WIDTH, WIDTH],
        "self_attn.k_proj": [inner, WIDTH],
        "self_attn.v_proj": [inner, WIDTH],
        "self_attn.o_proj": [WIDTH, WIDTH],
        "mlp.gate_proj": [INNER, WIDTH],
        "mlp.up_proj": [INNER, WIDTH],
        "mlp.down_proj": [WIDTH, INNER],
    }.items():
        tensors[f"{layer}.{name}.weight"] = (shape, zeros(*shape))
    write_safetensors(folder / "model.safetensors", tensors)
    (folder / "config.json").write_text(json.dumps(config()))
    for name in ("tokenizer.json", "generation_config.json"):
        shutil.copy(BUNDLED / name, folder)
    settings = json.loads((BUNDLED / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "chat_template": template}))


def token_ids():
    tokenizer = json.loads((BUNDLED / "tokenizer.json").read_text())
    return tokenizer["model"]["vocab"] | {token["content"]: token["id"] for token in tokenizer["added_tokens"]}


def config():
    ends = json.loads((BUNDLED / "generation_config.json").read_text())["eos_token_id"]
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "eos_token_id": ends,
        "hidden_size": WIDTH,
        "intermediate_size": INNER,
        "max_position_embeddings": 4096,
        "num_attention_heads": HEADS,
        "num_hidden_layers": 1,
        "num_key_value_heads": KEY_VALUE_HEADS,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "vocab_size": ROWS,
    }


def zeros(*shape):
    count = 1
    for size in shape:
        count *= size
    return array.array("f", bytes(4 * count))


def write_safetensors(path, tensors):
    header, start = {}, 0
    for name, (shape, values) in tensors.items():
        end = start + 4 * len(values)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}
        start = end
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for _, values in tensors.values():
            file.write(values.tobytes())
