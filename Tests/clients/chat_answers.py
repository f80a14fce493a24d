"""What a chat's answer says, streamed or not, in one shape."""


def said(choice):
    """A choice of a whole answer."""
    message = choice.message
    return {
        "content": message.content or "",
        "reasoning": getattr(message, "reasoning_content", None) or "",
        "calls": [(call.function.name, call.function.arguments) for call in message.tool_calls or []],
        "reason": choice.finish_reason,
    }


def gather(stream):
    """The choices of a stream, put together as clients do, with every rule of OpenAI's deltas checked."""
    choices, ids = {}, set()
    for chunk in stream:
        for choice in chunk.choices:
            said = choices.setdefault(choice.index, {"content": "", "reasoning": "", "calls": [], "reason": None})
            delta = choice.delta
            assert said["reason"] is None, "something follows the end"
            said["content"] += delta.content or ""
            said["reasoning"] += getattr(delta, "reasoning_content", None) or ""
            for piece in delta.tool_calls or []:
                if piece.index == len(said["calls"]):
                    assert piece.type == "function" and piece.function.name and piece.id not in ids
                    ids.add(piece.id)
                    said["calls"].append((piece.function.name, ""))
                else:
                    assert piece.index == len(said["calls"]) - 1 and piece.id is None and piece.function.name is None
                name, arguments = said["calls"][-1]
                said["calls"][-1] = (name, arguments + (piece.function.arguments or ""))
            said["reason"] = choice.finish_reason
    return [choices[index] for index in sorted(choices)]
