"""Renders templates and snippets with the reference implementation and writes goldens.json.

    pip install jinja2==3.1.6
    python3 generate.py

The environment is the one chat templates are written for: an immutable sandbox with trim_blocks, lstrip_blocks and
loop controls, `tojson` without HTML escapes, `raise_exception` and `strftime_now`. templates/ holds templates in the
style of published models, each rendered with every conversation below; snippets.py holds small expressions.
"""
import datetime
import json
import pathlib

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from conversations import CONVERSATIONS, TOOLS
from snippets import SNIPPETS, VARIABLES

HERE = pathlib.Path(__file__).parent
NOW = datetime.datetime(2025, 3, 7, 9, 5, 2)


class Generation(Extension):
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("run"), [], [], body).set_lineno(line)

    @jinja2.pass_eval_context
    def run(self, context, caller):
        return caller()


def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def environment():
    result = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
    result.filters["tojson"] = tojson
    result.globals["raise_exception"] = raise_exception
    result.globals["strftime_now"] = NOW.strftime
    return result


def render(source, variables):
    try:
        return {"output": environment().from_string(source).render(**variables)}
    except jinja2.exceptions.TemplateSyntaxError:
        return {"fails": "syntax"}
    except jinja2.exceptions.TemplateError as error:
        return {"raised": error.message} if type(error) is jinja2.exceptions.TemplateError else {"fails": "run"}
    except Exception:
        return {"fails": "run"}


def main():
    renders = []
    for path in sorted((HERE / "templates").glob("*.jinja")):
        source = path.read_text()
        for name, messages in CONVERSATIONS.items():
            for extra in [{}, {"tools": TOOLS}, {"tools": None, "enable_thinking": False}]:
                for prompt in [True, False]:
                    variables = {
                        "messages": messages, "add_generation_prompt": prompt, "bos_token": "<s>", "eos_token": "</s>",
                        **extra}
                    row = render(source, variables)
                    renders.append({"template": path.name, "conversation": name, "extra": extra and sorted(extra),
                                    "prompt": prompt, **row})
    snippets = [{"template": s, **render(s, VARIABLES)} for s in SNIPPETS]
    goldens = {"now": int(NOW.replace(tzinfo=datetime.timezone.utc).timestamp()), "conversations": CONVERSATIONS,
               "tools": TOOLS, "variables": VARIABLES, "renders": renders, "snippets": snippets}
    (HERE / "goldens.json").write_text(json.dumps(goldens, ensure_ascii=False, separators=(",", ":")))
    print(len(renders), "renders,", len(snippets), "snippets,", sum("output" in s for s in snippets), "with output")


if __name__ == "__main__":
    main()
