"""The official openai package and a trained GLM model that calls tools and reads their results.

Starts `router up` with one prefill and one decode node on the model in BATON_GLM_MODEL, or on the bundled one. That
answers questions it was trained on with calls, and its template always turns thinking off.
"""

import json
import os
import pathlib
import subprocess
import sys
import unittest

import openai

from chat_answers import gather, said

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))
from cluster import Cluster  # noqa: E402 (the path had to be set first)

MODEL = os.environ.get("BATON_GLM_MODEL")
MARKS = ("<think>", "</think>", "<tool_call>", "<arg_key>", "<arg_value>", "<|user|>", "<|observation|>")

# As the nano model was trained with it: another tool, or another order, and it may not call.
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
ASK = [{"role": "user", "content": "What is the weather in Rome?"}]
FRANCE = [{"role": "user", "content": "What is the capital of France?"}]


def setUpModule():
    global cluster, client, model
    cluster = Cluster(log=subprocess.DEVNULL, model=MODEL)
    client = openai.OpenAI(base_url=f"{cluster.url}/v1", api_key="none", max_retries=0, timeout=120)
    model = client.models.list().data[0].id


def tearDownModule():
    client.close()
    cluster.stop()


def ask(messages, **options):
    options = {"temperature": 0, "max_tokens": 64, **options}
    return client.chat.completions.create(model=model, messages=messages, **options)


class Tools(unittest.TestCase):
    def test_a_tool_is_called(self):
        choice = ask(ASK, tools=[WEATHER]).choices[0]
        self.assertEqual(choice.finish_reason, "tool_calls")
        self.assertIsNone(choice.message.content)
        (call,) = choice.message.tool_calls
        self.assertEqual(call.function.name, "get_weather")
        self.assertEqual(json.loads(call.function.arguments), {"city": "Rome"})
        self.assertEqual(gather(ask(ASK, tools=[WEATHER], stream=True)), [said(choice)])

    def test_the_result_goes_back_in(self):
        first = ask(ASK, tools=[WEATHER])
        message = first.choices[0].message
        result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "windy"}
        for past in (message, message.model_dump()):
            answer = ask([*ASK, past, result], tools=[WEATHER])
            self.assertEqual(answer.choices[0].finish_reason, "stop")
            self.assertIn("windy", answer.choices[0].message.content)
            self.assertFalse(answer.choices[0].message.tool_calls)
        # The second round begins as the first.
        self.assertGreater(answer.usage.prompt_tokens_details.cached_tokens, 0)

    def test_sampled_choices_stream_the_same(self):
        options = {"tools": [WEATHER], "n": 2, "seed": 5, "temperature": 0.8}
        whole = ask(ASK, **options)
        self.assertEqual(gather(ask(ASK, stream=True, **options)), [said(choice) for choice in whole.choices])

    def test_a_call_that_is_cut_off_does_not_parse(self):
        for limit in range(1, ask(ASK, tools=[WEATHER]).usage.completion_tokens):
            answer = said(ask(ASK, tools=[WEATHER], max_tokens=limit).choices[0])
            self.assertEqual(answer["reason"], "length")
            for _, arguments in answer["calls"]:
                with self.assertRaises(ValueError):
                    json.loads(arguments)


class Text(unittest.TestCase):
    def test_thinking_off_is_content_only(self):
        options = {"extra_body": {"chat_template_kwargs": {"enable_thinking": False}}}
        answer = ask(FRANCE, **options)
        choice = said(answer.choices[0])
        self.assertIn("Paris", choice["content"])
        self.assertEqual((choice["reasoning"], choice["calls"], choice["reason"]), ("", [], "stop"))
        self.assertEqual(answer.usage.completion_tokens_details.reasoning_tokens, 0)
        self.assertEqual(gather(ask(FRANCE, stream=True, **options)), [choice])
        for mark in MARKS:
            self.assertNotIn(mark, choice["content"])

    def test_past_reasoning_is_taken(self):
        past = {"role": "assistant", "content": "Paris.", "reasoning_content": "It is Paris."}
        answer = ask([*FRANCE, past, {"role": "user", "content": "What is the opposite of hot?"}])
        self.assertTrue(answer.choices[0].message.content)


if __name__ == "__main__":
    unittest.main()
