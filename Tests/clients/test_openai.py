"""The official openai package against a real cluster: what its users call must work as they expect.

Starts `router up` with one prefill and one decode node on the model in .cache/models (or BATON_MODEL), from
.build/release (or BATON_BIN).
"""

import asyncio
import concurrent.futures
import pathlib
import subprocess
import sys
import unittest
import urllib.request

import openai

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "scripts"))
from cluster import Cluster  # noqa: E402 (the path had to be set first)

CHAT = [{"role": "user", "content": "What is the capital of France? Answer in one sentence."}]


def setUpModule():
    global cluster, client, model
    cluster = Cluster(log=subprocess.DEVNULL)
    client = openai.OpenAI(base_url=f"{cluster.url}/v1", api_key="none", max_retries=0, timeout=120)
    model = client.models.list().data[0].id


def tearDownModule():
    client.close()
    cluster.stop()


class Chat(unittest.TestCase):
    def ask(self, **options):
        return client.chat.completions.create(model=model, messages=CHAT, **{"temperature": 0, **options})

    def test_answer_usage_and_reason(self):
        answer = self.ask(max_tokens=24)
        self.assertIn("Paris", answer.choices[0].message.content)
        self.assertEqual(answer.choices[0].message.role, "assistant")
        self.assertIn(answer.choices[0].finish_reason, ("stop", "length"))
        self.assertEqual(answer.usage.total_tokens, answer.usage.prompt_tokens + answer.usage.completion_tokens)
        self.assertGreater(answer.usage.prompt_tokens, 10)
        self.assertEqual(answer.object, "chat.completion")

    def test_stream_says_the_same_and_ends_with_usage(self):
        whole = self.ask(max_tokens=24)
        chunks = list(self.ask(max_tokens=24, stream=True, stream_options={"include_usage": True}))
        text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
        self.assertEqual(text, whole.choices[0].message.content)
        self.assertEqual(chunks[0].choices[0].delta.role, "assistant")
        self.assertEqual([c.usage for c in chunks[:-1]], [None] * (len(chunks) - 1))
        self.assertEqual(chunks[-1].choices, [])
        self.assertEqual(chunks[-1].usage.completion_tokens, whole.usage.completion_tokens)
        reasons = [c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason]
        self.assertEqual(reasons, [whole.choices[0].finish_reason])
        self.assertEqual(len({c.id for c in chunks}), 1)

    def test_cached_tokens_are_counted(self):
        long = [{"role": "user", "content": "Repeat after me: " + "one two three four five six seven " * 30}]
        for _ in range(2):
            answer = client.chat.completions.create(model=model, messages=long, max_tokens=1, temperature=0)
        self.assertGreater(answer.usage.prompt_tokens_details.cached_tokens, 100)

    def test_max_tokens_and_length(self):
        answer = self.ask(max_tokens=3)
        self.assertEqual(answer.choices[0].finish_reason, "length")
        self.assertEqual(answer.usage.completion_tokens, 3)
        self.assertEqual(self.ask(max_completion_tokens=2).usage.completion_tokens, 2)

    def test_stop_string_is_not_delivered(self):
        whole = self.ask(max_tokens=24).choices[0].message.content
        stop = whole.split()[2]
        for stream in (False, True):
            answer = self.ask(max_tokens=24, stop=[stop, "never said"], stream=stream)
            if stream:
                chunks = [c.choices[0] for c in answer if c.choices]
                text, reason = "".join(c.delta.content or "" for c in chunks), chunks[-1].finish_reason
            else:
                text, reason = answer.choices[0].message.content, answer.choices[0].finish_reason
            self.assertEqual(text, whole[: whole.index(stop)])
            self.assertEqual(reason, "stop")

    def test_logprobs(self):
        answer = self.ask(max_tokens=6, logprobs=True, top_logprobs=3)
        entries = answer.choices[0].logprobs.content
        self.assertEqual(len(entries), answer.usage.completion_tokens)
        self.assertEqual("".join(e.token for e in entries), answer.choices[0].message.content)
        for entry in entries:
            self.assertLessEqual(entry.logprob, 0)
            self.assertEqual(len(entry.top_logprobs), 3)
            self.assertEqual(entry.top_logprobs[0].token, entry.token)  # greedy
            self.assertEqual(bytes(entry.bytes).decode(errors="replace"), entry.token)
            self.assertGreaterEqual(entry.top_logprobs[0].logprob, entry.top_logprobs[1].logprob)

    def test_seed_repeats_and_n_differs(self):
        first = self.ask(max_tokens=16, temperature=1.0, seed=7, n=3)
        again = self.ask(max_tokens=16, temperature=1.0, seed=7, n=3)
        texts = [c.message.content for c in first.choices]
        self.assertEqual([c.index for c in first.choices], [0, 1, 2])
        self.assertEqual(texts, [c.message.content for c in again.choices])
        self.assertGreater(len(set(texts)), 1)

    def test_streamed_n_keeps_choices_apart(self):
        whole = self.ask(max_tokens=12, temperature=1.0, seed=3, n=2)
        texts = ["", ""]
        for chunk in self.ask(max_tokens=12, temperature=1.0, seed=3, n=2, stream=True):
            for choice in chunk.choices:
                texts[choice.index] += choice.delta.content or ""
        self.assertEqual(texts, [c.message.content for c in whole.choices])

    def test_sampling_fields_are_taken(self):
        banned = self.ask(max_tokens=12, logit_bias={"0": -100}, presence_penalty=0.5, frequency_penalty=0.5, top_p=0.9)
        self.assertTrue(banned.choices[0].message.content)
        more = self.ask(max_tokens=4, extra_body={"top_k": 5, "min_p": 0.05, "repetition_penalty": 1.1})
        self.assertTrue(more.choices[0].message.content)

    def test_content_parts_and_system_message(self):
        messages = [
            {"role": "system", "content": "You answer briefly."},
            {"role": "user", "content": [{"type": "text", "text": "Say hello."}]},
        ]
        answer = client.chat.completions.create(model=model, messages=messages, max_tokens=4)
        self.assertTrue(answer.choices[0].message.content)


class Completions(unittest.TestCase):
    def test_text_and_echo_of_ids(self):
        answer = client.completions.create(
            model=model, prompt="The capital of France is", max_tokens=4, temperature=0, logprobs=2
        )
        self.assertTrue(answer.choices[0].text.startswith(" Paris"))
        logprobs = answer.choices[0].logprobs
        self.assertEqual("".join(logprobs.tokens), answer.choices[0].text)
        self.assertEqual(len(logprobs.token_logprobs), 4)
        self.assertEqual(answer.object, "text_completion")

    def test_token_ids_as_prompt(self):
        answer = client.completions.create(model=model, prompt=[504, 3575, 282, 4649, 314], max_tokens=2, temperature=0)
        self.assertEqual(answer.usage.prompt_tokens, 5)

    def test_several_prompts(self):
        prompts = ["The capital of France is", "The capital of Italy is"]
        together = client.completions.create(model=model, prompt=prompts, max_tokens=3, temperature=0)
        alone = [client.completions.create(model=model, prompt=p, max_tokens=3, temperature=0) for p in prompts]
        self.assertEqual([c.text for c in together.choices], [a.choices[0].text for a in alone])

    def test_stream(self):
        whole = client.completions.create(model=model, prompt="Once upon a time", max_tokens=12, temperature=0)
        stream = client.completions.create(model=model, prompt="Once upon a time", max_tokens=12, temperature=0, stream=True)
        self.assertEqual("".join(c.choices[0].text for c in stream if c.choices), whole.choices[0].text)


class Cancelling(unittest.TestCase):
    def test_closing_a_stream_stops_the_work(self):
        stream = client.chat.completions.create(
            model=model, messages=CHAT, max_tokens=2000, stream=True, extra_body={"ignore_eos": True}
        )
        for count, _ in enumerate(stream):
            if count == 5:
                break
        stream.close()
        cluster.wait_until_quiet(seconds=10)

    def test_async_cancel_mid_stream(self):
        async def run():
            async with openai.AsyncOpenAI(base_url=f"{cluster.url}/v1", api_key="none", max_retries=0) as asynchronous:

                async def read():
                    stream = await asynchronous.chat.completions.create(
                        model=model, messages=CHAT, max_tokens=2000, stream=True, extra_body={"ignore_eos": True}
                    )
                    async for _ in stream:
                        pass

                tasks = [asyncio.create_task(read()) for _ in range(4)]
                await asyncio.sleep(0.5)
                for task in tasks:
                    task.cancel()
                results = await asyncio.gather(*tasks, return_exceptions=True)
                self.assertTrue(all(isinstance(r, asyncio.CancelledError) for r in results), results)

        asyncio.run(run())
        cluster.wait_until_quiet(seconds=10)

    def test_async_answers_together(self):
        async def run():
            async with openai.AsyncOpenAI(base_url=f"{cluster.url}/v1", api_key="none", max_retries=0) as asynchronous:
                ask = asynchronous.chat.completions.create
                return await asyncio.gather(
                    *(ask(model=model, messages=CHAT, max_tokens=12, temperature=0) for _ in range(8))
                )

        answers = asyncio.run(run())
        self.assertEqual(len({a.choices[0].message.content for a in answers}), 1)


class Errors(unittest.TestCase):
    def refused(self, error, **options):
        options = {"model": model, "messages": CHAT, "max_tokens": 4, **options}
        with self.assertRaises(error) as caught:
            client.chat.completions.create(**options)
        self.assertTrue(caught.exception.body["message"])
        return caught.exception

    def test_unknown_model(self):
        error = self.refused(openai.NotFoundError, model="no-such-model")
        self.assertEqual(error.code, "model_not_found")

    def test_values_out_of_range_name_the_field(self):
        wrong = {"temperature": -1, "top_p": 2, "n": 0, "max_tokens": -5, "top_logprobs": 99}
        for field, value in wrong.items():
            extra = {"logprobs": True} if field == "top_logprobs" else {}
            error = self.refused(openai.BadRequestError, **{field: value}, **extra)
            self.assertIn(field, error.body["message"])
            self.assertEqual(error.param, field)

    def test_wrong_types(self):
        self.refused(openai.BadRequestError, extra_body={"temperature": "hot"})
        self.refused(openai.BadRequestError, messages=[{"role": "user", "content": 5}])
        self.refused(openai.BadRequestError, messages=[])

    def test_prompt_past_the_context(self):
        error = self.refused(openai.BadRequestError, messages=[{"role": "user", "content": "word " * 20000}])
        self.assertEqual(error.code, "context_length_exceeded")

    def test_no_such_path(self):
        with self.assertRaises(openai.NotFoundError):
            client.embeddings.create(model=model, input="a")


class Service(unittest.TestCase):
    def get(self, path):
        with urllib.request.urlopen(cluster.url + path, timeout=10) as answer:
            return answer.status, answer.read().decode()

    def test_models(self):
        listed = client.models.list().data
        self.assertEqual(listed[0].object, "model")
        self.assertEqual(client.models.retrieve(model).id, model)

    def test_health_ready_metrics(self):
        self.assertEqual(self.get("/health")[0], 200)
        self.assertEqual(self.get("/ready")[0], 200)
        status, text = self.get("/metrics")
        self.assertEqual(status, 200)
        self.assertIn("time_to_first_token_seconds", text)

    def test_many_clients_at_once(self):
        def ask(number):
            answer = client.chat.completions.create(
                model=model, messages=CHAT, max_tokens=8, temperature=0, seed=number
            )
            return answer.choices[0].message.content

        with concurrent.futures.ThreadPoolExecutor(12) as pool:
            self.assertEqual(len(set(pool.map(ask, range(24)))), 1)


if __name__ == "__main__":
    unittest.main()
