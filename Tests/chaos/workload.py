"""The seeded set of distinct requests: mixed lengths, greedy and sampled, chat and plain, some with a shared prefix."""

import dataclasses
import json
import random

PAGE_TOKENS = 16
CHUNK_TOKENS = 64


@dataclasses.dataclass(frozen=True)
class Request:
    number: int
    kind: str
    path: str
    body: bytes


def draw(seed, count):
    """`count` different requests. The same seed gives the same set."""
    random_ = random.Random(f"requests {seed}")
    agents = [_tokens(random_, 6 * PAGE_TOKENS), _tokens(random_, 10 * PAGE_TOKENS)]
    return [_request(random_, number, agents) for number in range(count)]


def _request(random_, number, agents):
    kind = ("short", "chat", "short", "agent", "agent", "short", "long", "chat")[number % 8]
    if kind == "chat":
        subject = random_.choice(["the sea", "prime numbers", "bread", "the year 1848", "compilers", "Zürich"])
        path = "/v1/chat/completions"
        body = {"messages": [{"role": "user", "content": f"Question {number}: tell me about {subject}."}]}
        body |= {"logprobs": True, "top_logprobs": 1}
    else:
        path = "/v1/completions"
        body = {"prompt": _prompt(random_, kind, agents), "logprobs": 1}
    greedy = random_.random() < 0.5
    body |= {
        "model": "chaos",
        "stream": True,
        "max_tokens": random_.randint(2, 8) if random_.random() < 0.9 else random_.randint(16, 32),
        "temperature": 0 if greedy else 0.9,
        "top_p": 1 if greedy else 0.95,
        "seed": random_.randrange(1_000_000),
        "ignore_eos": True,
    }
    return Request(number, kind, path, json.dumps(body).encode())


def _prompt(random_, kind, agents):
    if kind == "short":
        return _tokens(random_, random_.randint(2, 3 * PAGE_TOKENS))
    if kind == "agent":
        return random_.choice(agents) + _tokens(random_, random_.randint(1, 5 * PAGE_TOKENS))
    return _tokens(random_, random_.randint(2 * CHUNK_TOKENS, 5 * CHUNK_TOKENS))


def _tokens(random_, count):
    """Ordinary tokens of small vocabularies too, which begin or end with special ones."""
    return [random_.randrange(300, 3_000) for _ in range(count)]
