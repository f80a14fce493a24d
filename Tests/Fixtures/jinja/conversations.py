"""Conversations that every template is rendered with."""

TOOLS = [
    {"type": "function", "function": {
        "name": "get_weather", "description": "Current weather for a city, e.g. \"Zürich\".",
        "parameters": {"type": "object", "properties": {
            "city": {"type": "string", "description": "City name"},
            "unit": {"type": "string", "enum": ["celsius", "fahrenheit"], "description": "Unit", "default": "celsius"},
            "days": {"type": "array", "items": {"type": "integer"}, "description": "Which days"},
        }, "required": ["city"]},
        "return": {"type": "object", "additionalProperties": {"type": "number"}}}},
    {"type": "function", "function": {
        "name": "add", "description": "Adds numbers & returns <b>the sum</b>.",
        "parameters": {"type": "object", "properties": {
            "a": {"type": "number", "description": " first "}, "b": {"type": ["number", "null"], "description": "second"},
            "o": {"type": "object", "description": "nested", "properties": {"x": {"type": "boolean"}}, "required": ["x"]},
        }, "required": ["a", "b"]}}},
]

CALL = {"role": "assistant", "content": None, "tool_calls": [
    {"id": "call12345", "type": "function",
     "function": {"name": "get_weather", "arguments": {"city": "Zürich", "days": [1, 2], "x": 1.5, "deep": {"k": None}}}}]}

CONVERSATIONS = {
    "single": [{"role": "user", "content": "What is the capital of France?"}],
    "system": [{"role": "system", "content": "You are terse.  "}, {"role": "user", "content": " Hi \n"}],
    "turns": [
        {"role": "user", "content": "My name is Ada."}, {"role": "assistant", "content": "Hello, Ada!"},
        {"role": "user", "content": "Zähl bis 3 – 日本語 😀 \"quoted\" 'single' <tag>"}],
    "thinking": [
        {"role": "system", "content": "Think. /no_think"}, {"role": "user", "content": "1+1?"},
        {"role": "assistant", "content": "<think>\nIt is two.\n</think>\n\n2"}, {"role": "user", "content": "and 2+2?"},
        {"role": "assistant", "content": "4", "reasoning_content": "\neasy\n"}],
    "tools": [
        {"role": "user", "content": "Weather?"}, CALL,
        {"role": "tool", "content": "{\"temp\": 21.5}", "tool_call_id": "call12345", "name": "get_weather"},
        {"role": "assistant", "content": "It is 21.5 °C."}, {"role": "user", "content": "Thanks"}],
    "two-results": [
        {"role": "user", "content": "Weather?"}, CALL, {"role": "tool", "content": "one"}, {"role": "tool", "content": "two"}],
    "parts": [{"role": "user", "content": [{"type": "text", "text": "What is "}, {"type": "image"},
                                           {"type": "text", "text": "this?"}]}],
    "wrong-order": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}],
    "empty": [],
}
