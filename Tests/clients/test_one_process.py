"""A cluster of two nodes that speculates, beside one process that does not: `prefill-node eval` on the same prompts.

Tokens are equal. So are the probabilities that the answers carry, as far as eight digits show.
"""

import json
import math
import pathlib
import random
import struct
import subprocess
import sys
import tempfile
import time
import unittest
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))
from cluster import BINARIES, Cluster  # noqa: E402 (the path had to be set first)

MODEL = ROOT / "Models/glm5-nano"
GENERATED = 32


def prompts():
    """Below and beyond the 256 positions that the model attends to, and beyond a chunk of 512."""
    dice = random.Random(5)
    return {f"p{length}": [dice.randrange(300, 3000) for _ in range(length)] for length in (3, 40, 255, 300, 700, 1500)}


def tensors(path):
    """Of a safetensors file: name to (shape, bytes)."""
    data = path.read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    found = json.loads(data[8 : 8 + size])
    found.pop("__metadata__", None)
    start = 8 + size
    return {
        name: (entry["dtype"], entry["shape"], data[start + entry["data_offsets"][0] : start + entry["data_offsets"][1]])
        for name, entry in found.items()
    }


def one_process(asked):
    with tempfile.TemporaryDirectory() as folder:
        ids, out = pathlib.Path(folder, "ids.json"), pathlib.Path(folder, "out.safetensors")
        ids.write_text(json.dumps(asked))
        command = [BINARIES / "prefill-node", "eval", "--model", MODEL, "--ids", ids, "--out", out]
        command += ["--greedy", GENERATED, "--kv-dtype", "f16", "--chunk", 96]
        subprocess.run([str(part) for part in command], check=True, stdout=subprocess.DEVNULL, timeout=120)
        return tensors(out)


def numbers(tensor, kinds={"F32": "f", "I32": "i", "I64": "q"}):
    kind, shape, data = tensor
    return struct.unpack(f"<{math.prod(shape)}{kinds[kind]}", data)


class OneProcess(unittest.TestCase):
    def post(self, body):
        body = {"model": "glm5-nano", "temperature": 0, "ignore_eos": True, **body}
        sent = urllib.request.Request(
            f"{self.cluster.url}/v1/completions", json.dumps(body).encode(), {"content-type": "application/json"}
        )
        with urllib.request.urlopen(sent, timeout=120) as answer:
            return json.load(answer)["choices"][0]

    def test_the_cluster_says_what_one_process_says(self):
        asked = prompts()
        expected = one_process(asked)
        self.cluster = Cluster(log=subprocess.DEVNULL, model=None, options=("--speculate", "3"))
        self.addCleanup(self.cluster.stop)
        for name, prompt in asked.items():
            with self.subTest(prompt=name):
                ids = numbers(expected[f"{name}.greedy_ids"])
                logits = numbers(expected[f"{name}.greedy_logits"])
                width = len(logits) // len(ids)
                answer = self.post({"prompt": prompt, "max_tokens": GENERATED, "logprobs": 1})
                # The prompt's text and the answer's, as the server itself writes these tokens.
                echo = self.post({"prompt": list(ids), "max_tokens": 1, "echo": True})
                self.assertTrue(echo["text"].startswith(answer["text"]), (echo["text"], answer["text"]))
                self.assertEqual(len(answer["logprobs"]["token_logprobs"]), len(ids))
                for step, (token, found) in enumerate(zip(ids, answer["logprobs"]["token_logprobs"])):
                    row = logits[step * width : (step + 1) * width]
                    top = max(row)
                    whole = math.fsum(math.exp(logit - top) for logit in row)
                    self.assertAlmostEqual(found, row[token] - top - math.log(whole), delta=2e-6)
        self.assertGreater(self.drafted(), 0)

    def drafted(self):
        """Tokens that the decode node drafted, as the status has it within a second."""
        for _ in range(50):
            (spoken,) = [node["speculation"] for node in self.cluster.status()["nodes"] if node["role"] == "decode"]
            if spoken:
                return spoken["drafted"]
            time.sleep(0.1)
        return 0


if __name__ == "__main__":
    unittest.main()
