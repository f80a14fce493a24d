"""The official openai package and GLM's chat format: thinking on and off, tools in, calls out, results back in.

The model is a scripted one (scripted_model.py): after `<think>` it thinks "It is of" and closes its thoughts, after
`</think>` it calls get_weather for Rome. Its template is written from the rules of GLM-5's (Tests/Fixtures/jinja).
"""

import json
import pathlib
import subprocess
import sys
import tempfile
import unittest

import openai
from openai.lib.streaming.chat import ChatCompletionStreamState

import scripted_model
from chat_answers import gather, said

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "scripts"))
from cluster import Cluster  # noqa: E402 (the path had to be set first)

THOUGHT = ["<think>", "It", "Ġis", "Ġof", "</think>"]
CALL = ["</think>", "<tool_call>", "get", "_weather", "<arg_key>", "city", "</arg_key>", "<arg_value>", "R", "ome"]
CALL += ["</arg_value>", "</tool_call>", "<|observation|>"]
WRITTEN = "<tool_call>get_weather<arg_key>city</arg_key><arg_value>Rome</arg_value></tool_call>"
ROME = ("get_weather", '{"city": "Rome"}')

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
ASK = [{"role": "user", "content": "What is the weather in Rome?"}]
OFF = {"extra_body": {"chat_template_kwargs": {"enable_thinking": False}}}


def setUpModule():
    global cluster, client, model, folder
    folder = tempfile.TemporaryDirectory()
    template = (scripted_model.FIXTURES / "jinja/templates/glm5-thinking.jinja").read_text()
    scripted_model.write(folder.name, [THOUGHT, CALL], template)
    cluster = Cluster(log=subprocess.DEVNULL, model=folder.name)
    client = openai.OpenAI(base_url=f"{cluster.url}/v1", api_key="none", max_retries=0, timeout=120)
    model = client.models.list().data[0].id


def tearDownModule():
    client.close()
    cluster.stop()
    folder.cleanup()


def ask(messages=ASK, **options):
    options = {"temperature": 0, "max_tokens": 64, **options}
    return client.chat.completions.create(model=model, messages=messages, **options)


def everywhere(messages=ASK, **options):
    """The only choice, asserted to be the same streamed and not."""
    whole = said(ask(messages, **options).choices[0])
    (streamed,) = gather(ask(messages, stream=True, **options))
    assert streamed == whole, (streamed, whole)
    return whole


class ChatFormat(unittest.TestCase):
    def test_thinking_then_a_call(self):
        self.assertEqual(
            everywhere(tools=[WEATHER]),
            {"content": "", "reasoning": "It is of", "calls": [ROME], "reason": "tool_calls"},
        )
        answer = ask(tools=[WEATHER])
        message = answer.choices[0].message
        self.assertIsNone(message.content)
        self.assertEqual(message.tool_calls[0].type, "function")
        self.assertTrue(message.tool_calls[0].id)
        self.assertEqual(answer.usage.completion_tokens_details.reasoning_tokens, 3)
        self.assertEqual(answer.usage.completion_tokens, 3 + 1 + len(CALL) - 2)

    def test_thinking_off(self):
        for options in (OFF, {"reasoning_effort": "none"}):
            answer = everywhere(tools=[WEATHER], **options)
            self.assertEqual((answer["reasoning"], answer["calls"]), ("", [ROME]))
            usage = ask(tools=[WEATHER], **options).usage
            self.assertEqual(usage.completion_tokens_details.reasoning_tokens, 0)
        on = {"chat_template_kwargs": {"enable_thinking": True}}
        self.assertEqual(everywhere(reasoning_effort="none", extra_body=on)["reasoning"], "It is of")

    def test_the_clients_own_accumulator_reads_the_stream(self):
        state = ChatCompletionStreamState()
        kinds = {event.type for chunk in ask(tools=[WEATHER], stream=True) for event in state.handle_chunk(chunk)}
        self.assertIn("tool_calls.function.arguments.done", kinds)
        final = state.get_final_completion().choices[0]
        self.assertEqual(json.loads(final.message.tool_calls[0].function.arguments), {"city": "Rome"})
        self.assertEqual(final.finish_reason, "tool_calls")

    def test_messages_go_back_in(self):
        first = ask(tools=[WEATHER])
        message = first.choices[0].message
        result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "windy"}
        counts = []
        # As it came, and as plain data with all its nulls.
        for past in (message, message.model_dump()):
            second = ask([*ASK, past, result], tools=[WEATHER])
            self.assertEqual(said(second.choices[0])["calls"], [ROME])
            counts.append(second.usage.prompt_tokens)
        self.assertEqual(counts[0], counts[1])
        # What came is in the prompt again, thoughts included, as the model wrote it.
        self.assertGreaterEqual(counts[0], first.usage.prompt_tokens + first.usage.completion_tokens)
        bare = {"role": "assistant", "content": None, "tool_calls": message.model_dump()["tool_calls"]}
        without = ask([*ASK, bare, result], tools=[WEATHER]).usage.prompt_tokens
        self.assertEqual(counts[0] - without, 4)  # <think>It is of

    def test_without_tools_nothing_is_a_call(self):
        for options in ({}, {"tools": [WEATHER], "tool_choice": "none"}):
            self.assertEqual(
                everywhere(**options), {"content": WRITTEN, "reasoning": "It is of", "calls": [], "reason": "stop"}
            )

    def test_cut_anywhere(self):
        count = ask(tools=[WEATHER]).usage.completion_tokens
        for limit in range(1, count):
            answer = everywhere(tools=[WEATHER], max_tokens=limit)
            self.assertEqual(answer["reason"], "length")
            self.assertTrue("It is of".startswith(answer["reasoning"]))
            for _, arguments in answer["calls"]:
                with self.assertRaises(ValueError):
                    json.loads(arguments)
            if answer["calls"]:
                self.assertEqual(answer["content"], "")

    def test_stop_strings_are_looked_for_in_what_the_model_writes(self):
        thought = everywhere(tools=[WEATHER], stop="</think>")
        self.assertEqual(thought, {"content": "", "reasoning": "It is of", "calls": [], "reason": "stop"})
        call = everywhere(tools=[WEATHER], stop=["never", "<arg_key>"])
        self.assertEqual((call["content"], call["calls"], call["reason"]), ("<tool_call>get_weather", [], "stop"))
        value = everywhere(tools=[WEATHER], stop="ome")
        self.assertEqual((value["calls"], value["reason"]), ([("get_weather", '{"city": "R')], "stop"))

    def test_several_choices_and_logprobs(self):
        options = {"tools": [WEATHER], "n": 3, "seed": 5, "logprobs": True, "top_logprobs": 2}
        whole = ask(**options)
        self.assertEqual([said(choice) for choice in whole.choices], gather(ask(stream=True, **options)))
        self.assertEqual([said(choice)["calls"] for choice in whole.choices], [[ROME]] * 3)
        self.assertEqual(len({choice.message.tool_calls[0].id for choice in whole.choices}), 3)
        for choice in whole.choices:
            self.assertEqual("".join(e.token for e in choice.logprobs.content), "It is of</think>" + WRITTEN)
        streamed = [
            entry.token
            for chunk in ask(stream=True, **options)
            for choice in chunk.choices
            if choice.index == 1 and choice.logprobs
            for entry in choice.logprobs.content
        ]
        self.assertEqual(streamed, [entry.token for entry in whole.choices[1].logprobs.content])
        self.assertEqual(whole.usage.completion_tokens_details.reasoning_tokens, 9)

    def test_one_call_at_most(self):
        self.assertEqual(everywhere(tools=[WEATHER], parallel_tool_calls=False)["calls"], [ROME])

    def test_what_cannot_be_honoured_is_refused(self):
        for param, options in {
            "tool_choice": {"tools": [WEATHER], "tool_choice": "required"},
            "tools[0].function.name": {"tools": [{"type": "function", "function": {}}]},
            "reasoning_effort": {"reasoning_effort": "enormous"},
        }.items():
            with self.assertRaises(openai.BadRequestError) as caught:
                ask(**options)
            self.assertEqual(caught.exception.param, param)


if __name__ == "__main__":
    unittest.main()
