"""Small templates, one feature each, and the variables they see."""

VARIABLES = {
    "name": "World", "empty": "", "n": 7, "neg": -7, "x": 2.5, "zero": 0, "yes": True, "no": False, "nothing": None,
    "big": 123456789012, "items": [3, 1, 2], "words": ["banana", "Apple", "cherry", "apple"], "nested": [[1, 2], [3], []],
    "user": {"name": "Ada", "age": 36, "tags": ["a", "b"], "items": "shadow", "address": {"city": "Paris"}},
    "users": [{"name": "Ada", "age": 36, "admin": True}, {"name": "Bob", "age": 25}, {"name": "cy", "age": 36, "admin": False}],
    "text": "  The quick brown fox\n jumps over\n\nthe lazy dog  ", "uni": "Zürich naïve ÉCOLE ß 日本語 😀 e\u0301",
    "html": "<a href=\"x\">T&C's</a>", "csv": "a,b,,c", "floats": [1.0, 0.1, 1e16, 1e-5, 123456.789, 1e100, -0.0, 3.14159265358979],
    "tricky": "it's \"q\" \\ \n\t\u0007 \u00a0 \u200b", "messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}],
}

EXPRESSIONS = r"""
1 + 2
7 / 2
7 // 2
-7 // 2
7 % 3
-7 % 3
7 % -3
2 ** 10
2 ** -1
2 ** 3 ** 2
7.5 // 2
-7.5 % 2
1e3
1_000
0x1F
0b101
0o17
1.5e-3
10 / 5
1 / 3
0.1 + 0.2
100000000000000000.0
1e22
1 == 1.0
true + true
true == 1
'a' + 'b'
'a' * 3
[1, 2] * 2
3 * 'ab'
[1] + [2]
(1, 2) + (3,)
'a' ~ 1 ~ none ~ 2.0 ~ true
-n
+n
- n ** 2
not true
not not name
not n == 7
1 < 2 < 3
1 < 3 < 2
1 < 2 == 2
'a' < 'b'
'Z' < 'a'
[1, 2] < [1, 3]
'ell' in 'hello'
'z' not in 'hello'
3 in items
'name' in user
'nope' in user
3 not in items
'x' in undefined_thing
name and empty
name or empty
empty or nothing or 'last'
nothing and name
1 if yes else 2
1 if no else 2
1 if no
(1 if no) is undefined
1 if no else 2 if no else 3
'a' 'b' 'c'
"it's"
'say "hi"'
'tab\tnew\nline \x41 \u00e9 \101 \q'
'a\\b'
[]
()
(1,)
(1, 2)
1, 2
{}
{'a': 1, 'b': [1, 2], 'c': {'d': none}}
{'a': 1, 'a': 2}
{1: 'one', 2: 'two'}[1]
{1: 'a', 1.0: 'b', true: 'c'}
[1, 'two', 3.0, none, true, ['x']]
[1, 2, 3,]
{'a': 1,}
name
user
users
user.name
user['name']
user.address.city
user['address']['city']
user.missing
user.missing is defined
user.tags[0]
user.tags[-1]
user.tags[5]
user.tags.0
user['items']
user.items is callable
items[1]
items[10] is undefined
name[0]
name[-1]
name[1:3]
uni[0:6]
items[::-1]
items[1:]
items[:-1]
items[-2:]
items[::2]
items[5:10]
name[::-1]
name[3:0:-1]
(1, 2, 3)[1:]
nested[0][1]
'abc'[10] is undefined
missing
missing is defined
missing.attr
missing['x']
missing()
missing + 1
missing == missing2
missing ~ 'x'
missing | default('d')
missing | length
missing | list
missing | tojson
nothing | map('upper') | list
nothing | selectattr('x') | list
zero | select | list
n | map('upper') | list
1 if yes else name | nosuchfilter
nothing
nothing.x
nothing.x.y
nothing | default('d')
nothing | default('d', true)
empty | default('d', true)
empty | default('d', boolean=true)
zero | d(5)
yes
no
x
big
big * 1000
floats
floats | tojson
floats | map('string') | join(' ')
name | upper
name | lower
name | capitalize
'hELLO wORLD' | capitalize
'hello world-foo (bar) o\'neil' | title
"they're bill's friends" | title
uni | upper
uni | lower
uni | length
uni | title
uni | capitalize
name | length
items | length
user | length
user | count
text | trim
'xxhixx' | trim('x')
'--a-b--' | trim('-')
name | replace('o', '0')
'aaaa' | replace('a', 'b', 2)
'abc' | replace('', '-')
name | reverse
items | reverse | list
items | sort
items | sort(reverse=true)
words | sort
words | sort(case_sensitive=true)
users | sort(attribute='age') | map(attribute='name') | list
users | sort(attribute='age,name') | map(attribute='name') | list
users | sort(attribute='name', reverse=true) | map(attribute='name') | join(',')
words | unique | list
words | unique(case_sensitive=true) | list
users | unique(attribute='age') | map(attribute='name') | list
items | min
items | max
words | max
users | max(attribute='age') | tojson
[] | min
items | sum
users | sum(attribute='age')
items | sum(start=10)
[[1],[2]] | sum(start=[])
items | join
items | join(', ')
users | join(', ', attribute='name')
items | first
items | last
[] | first
[] | last is undefined
'abc' | first
'abc' | last
user | first
items | list
'abc' | list
user | list
items | string
nothing | string
'42' | int
'42.7' | int
'abc' | int
'abc' | int(default=5)
' 12 ' | int
'0x1A' | int(base=16)
'1_000' | int
'-5' | int
3.99 | int
true | int
'3.5' | float
'abc' | float
'abc' | float(1.5)
'1e3' | float
'nan' | float
'inf' | float
5 | float
-5 | abs
-5.5 | abs
42.55 | round
42.55 | round(1)
42.55 | round(1, 'floor')
42.55 | round(1, 'ceil')
2.5 | round
3.5 | round
-2.5 | round
1234.567 | round(-2)
42 | round
2.675 | round(2)
42.4 | round | int
items | batch(2) | list
items | batch(2, 0) | list
range(7) | slice(3) | list
range(7) | slice(3, 'x') | list
users | groupby('age') | list | length
users | groupby('age') | map('first') | list
users | map(attribute='name') | list
users | map(attribute='admin', default='?') | list
users | map(attribute='address.city', default='none') | list
items | map('string') | list
words | map('upper') | join(' ')
words | map('replace', 'a', 'o') | list
words | map('length') | sum
items | map('abs') | list
users | selectattr('admin') | map(attribute='name') | list
users | selectattr('admin', 'defined') | map(attribute='name') | list
users | selectattr('age', 'equalto', 36) | list | length
users | selectattr('age', '>', 30) | map(attribute='name') | list
users | selectattr('name', 'in', ['Bob', 'cy']) | map(attribute='age') | list
users | rejectattr('admin', 'true') | map(attribute='name') | list
users | rejectattr('admin') | map(attribute='name') | list
items | select('odd') | list
items | select('gt', 1) | list
items | select('>=', 2) | list
items | reject('eq', 1) | list
[0, 1, '', 'a', none] | select | list
[0, 1, '', 'a', none] | reject | list
['a', 1] | select('string') | list
(users | selectattr('age', 'gt', 100)) and 'lazy is true'
users | selectattr('age', 'gt', 100) | list and 'no' or 'empty'
user | items | list
user | dictsort
user | dictsort(reverse=true) | map('first') | list
{'b': 2, 'A': 1, 'c': 0} | dictsort
{'b': 2, 'A': 1, 'c': 0} | dictsort(true)
{'b': 2, 'A': 1, 'c': 0} | dictsort(by='value')
text | indent
text | indent(2, true)
text | indent(2, blank=true)
'a\nb' | indent('> ')
'a\nb' | indent(width=2, first=true)
'foo bar baz qux' | truncate(9)
'foo bar baz qux' | truncate(9, true)
'foo bar baz qux' | truncate(9, false, '…')
'foo bar baz qux' | truncate(11, false, '...', 0)
'foo bar' | truncate(9)
name | center(11)
text | wordcount
html | escape
html | e
html | safe
'a b/c?d=é' | urlencode
1000 | filesizeformat
1 | filesizeformat
1234567 | filesizeformat
1234567 | filesizeformat(true)
'%s is %d' | format('x', 5)
'%05.1f|%-5s|%5s|%x' | format(3.14159, 'a', 'b', 255)
'%(a)s' | format(a=1)
'%s' % name
'%s and %s' % (1, 2)
'%d%%' % 50
'%.2f' % x
'%5d|%-5d|%05d|%+d' % (42, 42, 42, 42)
'%r' % 'a'
'%c' % 'a'
'%s %s' % 1
'{} {}'.format(1, 'a')
'{0} {1} {0}'.format(1, 2)
'{a} {b}'.format(a=1, b=2)
'{:.2f}'.format(3.14159)
'{:>5}|{:<5}|{:^5}|'.format(1, 2, 3)
'{:05d} {:,} {:x} {:b}'.format(42, 1234567, 255, 5)
'{:*^9}'.format('mid')
'{!r}'.format('x')
'{{}} {}'.format(1)
'{u[name]}'.format(u=user)
'{:+.1f} {:%}'.format(2.55, 0.25)
'{} {}'.format(1)
user | tojson
user | tojson(indent=2)
users | tojson(indent=4)
[] | tojson(indent=2)
{} | tojson(indent=2)
{'a': [], 'b': {}} | tojson(indent=1)
uni | tojson
uni | tojson(ensure_ascii=true)
tricky | tojson
tricky
[tricky]
html | tojson
{'b': 1, 'a': 2} | tojson(sort_keys=true)
{'b': 1, 'a': [1, 2]} | tojson(separators=(',', ':'))
{'b': 1} | tojson(true, 2)
{1: 2, none: 3, true: 4, 1.5: 6} | tojson
(1, 2) | tojson
nothing | tojson
users | map('tojson') | join('\n')
range(3) | list | tojson
items | map('string') | tojson
range(3) | list
range(1, 10, 3) | list
range(5, 0, -2) | list
range(0) | list
range(3)[1]
range(3) | length
range(3) is iterable
range(1000000) | length
dict(a=1, b=2)
dict({'x': 1}, y=2)
namespace(a=1).a
namespace(a=1).b is defined
text.strip()
text.lstrip() | length
text.rstrip() | length
'xxhixx'.strip('x')
'xxhixx'.lstrip('x')
'xyhixy'.rstrip('yx')
csv.split(',')
csv.split(',', 1)
csv.rsplit(',', 1)
text.split()
text.split(none, 2)
text.rsplit(none, 2)
'a  b'.split(' ')
'abc'.split('')
text.splitlines()
'a\r\nb\rc\n'.splitlines()
'a-b-c'.partition('-')
'a-b-c'.rpartition('-')
'abc'.partition('x')
', '.join(words)
'-'.join('abc')
','.join([1])
name.upper()
name.lower()
'hello wORLD'.title()
"they're".title()
'hELLO'.capitalize()
'aBc'.swapcase()
name.startswith('Wo')
name.startswith(('x', 'W'))
name.endswith('ld')
name.endswith('x')
'abcabc'.find('c')
'abcabc'.find('c', 3)
'abcabc'.rfind('b')
'abc'.find('z')
'naïve'.find('v')
'abc'.index('z')
'abcabc'.count('bc')
'abc'.replace('b', 'x')
'aaa'.replace('a', 'b', 1)
'12'.isdigit()
'1a'.isdigit()
'ab'.isalpha()
'a1'.isalnum()
' \t'.isspace()
''.isspace()
'AB'.isupper()
'ab1'.islower()
'7'.zfill(3)
'-7'.zfill(4)
'a'.ljust(3) ~ '|'
'a'.rjust(3)
'a'.center(4) ~ '|'
'a'.center(5, '*')
'prefix-x'.removeprefix('prefix-')
'x.txt'.removesuffix('.txt')
user.get('name')
user.get('zip')
user.get('zip', 'none')
user.keys() | list
user.values() | list | length
user.items() | list
user.items() | length
'name' in user.keys()
user.keys()
items.index(1)
items.count(1)
items.append(4)
user.update({'a': 1})
items.pop()
n is defined
n is number
x is number
n is integer
x is integer
x is float
yes is integer
yes is number
yes is boolean
n is boolean
name is string
n is string
items is iterable
name is iterable
n is iterable
items is sequence
user is sequence
user is mapping
items is mapping
nothing is none
n is none
missing is none
n is odd
n is even
neg is odd
9 is divisibleby 3
9 is divisibleby(4)
n is eq 7
n is equalto(7)
n is ne 7
n is gt 3
n is ge(7)
n is lt 3
n is le 7
n is lessthan 8
n is in [1, 7]
'a' is in 'abc'
3 is not in items
yes is true
yes is false
1 is true
no is false
'abc' is lower
'ABC' is upper
'aBc' is lower
nothing is sameas none
yes is sameas true
n is sameas 7
'upper' is filter
'nope' is filter
'odd' is test
range is callable
name is callable
n is not number
not n is number
missing is undefined
missing is not defined and 'x'
user.name is defined and user.name == 'Ada'
(user.name | upper).lower()
(1 + 2) * 3
1 + 2 * 3 - 4
2 * 3 % 4
10 - 2 - 3
'a' if 1 > 2 else 'b' if 2 > 1 else 'c'
[x for x in items]
name | nosuchfilter
name is nosuchtest
1 / 0
1 // 0
1 % 0
'a' + 1
'a' < 1
[] + ()
{} + {}
n()
name.nosuch
name.nosuch()
name.strip(1)
users[0].name ~ '/' ~ users[-1].name
'%s' | format(items)
items | join(', ') | upper
(items | length) > 2
items | length > 2
not items | length
items|length-1
n|abs+1
-1|abs
-n|abs
2 + -3
'abc'|first|upper
['a', 'b']|join('-')|replace('-', '+')
strftime_now('%Y-%m-%d')
strftime_now('%d %b %Y, %A %B %-d %H:%M:%S %I %p %j %y %%')
raise_exception('no ' ~ name)
uni[::-1]
'日本語'[1]
'日本語' | length
'e\u0301' == '\u00e9'
'ß' | upper
'İ' | lower | length
'ﬁ' | capitalize
'ǆ' | title
'😀' | tojson(ensure_ascii=true)
""".strip("\n").split("\n")

STATEMENTS = [
    "{% for i in items %}{{ i }},{% endfor %}",
    "{% for i in items %}{{ loop.index }}/{{ loop.length }}:{{ loop.first }}:{{ loop.last }}:{{ loop.index0 }}:{{ loop.revindex }}:{{ loop.revindex0 }} {% endfor %}",
    "{% for i in items %}{{ loop.previtem }}<{{ i }}>{{ loop.nextitem }};{% endfor %}",
    "{% for i in items %}{{ loop.previtem is defined }}{% endfor %}",
    "{% for i in [] %}x{% else %}none{% endfor %}",
    "{% for i in items %}x{% else %}none{% endfor %}",
    "{% for i in missing %}x{% else %}none{% endfor %}",
    "{% for i in nothing %}x{% endfor %}",
    "{% for i in n %}x{% endfor %}",
    "{% for c in name %}{{ c }}.{% endfor %}",
    "{% for k in user %}{{ k }} {% endfor %}",
    "{% for k, v in user.items() %}{{ k }}={{ v }};{% endfor %}",
    "{% for k, v in user | items %}{{ loop.index }}{{ k }};{% endfor %}",
    "{% for k, v in user | dictsort %}{{ k }};{% endfor %}",
    "{% for a, b in [[1, 2], (3, 4)] %}{{ a }}-{{ b }} {% endfor %}",
    "{% for a, (b, c) in [[1, [2, 3]]] %}{{ a }}{{ b }}{{ c }}{% endfor %}",
    "{% for a, b in [[1, 2, 3]] %}{{ a }}{% endfor %}",
    "{% for a, b in items %}{{ a }}{% endfor %}",
    "{% for i in items if i > 1 %}{{ loop.index }}:{{ i }}:{{ loop.length }} {% endfor %}",
    "{% for i in items if i > 5 %}x{% else %}empty{% endfor %}",
    "{% for u in users if u.admin is defined and u.admin %}{{ u.name }}{% endfor %}",
    "{% for i in 1, 2, 3 %}{{ i }}{% endfor %}",
    "{% for i in range(3) %}{% for j in range(2) %}{{ i }}{{ j }}{{ loop.depth }} {% endfor %}{% endfor %}",
    "{% for i in range(3) %}{% set outer = loop %}{% for j in range(2) %}{{ outer.index }}{{ loop.index }} {% endfor %}{% endfor %}",
    "{% for i in items %}{{ loop.cycle('odd', 'even') }} {% endfor %}",
    "{% for i in [1, 1, 2] %}{{ loop.changed(i) }} {% endfor %}",
    "{% for i in range(10) %}{% if i == 3 %}{% break %}{% endif %}{{ i }}{% endfor %}",
    "{% for i in range(6) %}{% if i is odd %}{% continue %}{% endif %}{{ i }}{% endfor %}",
    "{% for i in range(3) %}{% for j in range(3) %}{% if j == 1 %}{% break %}{% endif %}{{ i }}{{ j }} {% endfor %}{% endfor %}",
    "{% for i in items %}{{ i }}{% if not loop.last %}, {% endif %}{% endfor %}",
    "{% set x = 0 %}{% for i in items %}{{ x }}{% set x = i %}{{ x }} {% endfor %}{{ x }}",
    "{% set ns = namespace(x=0) %}{% for i in items %}{% set ns.x = ns.x + i %}{% endfor %}{{ ns.x }}",
    "{% set ns = namespace() %}{% set ns.a = [1] %}{% set ns.a = ns.a + [2] %}{{ ns.a }}{{ ns.b is defined }}",
    "{% set ns = namespace(found=false, list=[]) %}{% for u in users %}{% if u.age == 25 %}{% set ns.found = true %}{% set ns.list = ns.list + [u.name] %}{% endif %}{% endfor %}{{ ns.found }} {{ ns.list }}",
    "{% set user.x = 1 %}",
    "{% set a, b = 1, 2 %}{{ a }}{{ b }}",
    "{% set (a, b) = (1, 2) %}{{ a }}{{ b }}",
    "{% set a, b = [1] %}",
    "{% set t = 1, 2, 3 %}{{ t }}",
    "{% set greeting %}Hello {{ name }}!{% endset %}{{ greeting }}{{ greeting | length }}",
    "{% set g | upper | trim %} hi {{ name }} {% endset %}[{{ g }}]",
    "{% set x %}a{% set y = 1 %}{% endset %}{{ x }}{{ y is defined }}",
    "{% if yes %}{% set z = 5 %}{% endif %}{{ z }}",
    "{% if no %}a{% elif nothing %}b{% elif n == 7 %}c{% else %}d{% endif %}",
    "{% if no %}a{% endif %}b",
    "{% if missing %}a{% else %}b{% endif %}",
    "{% if missing.x %}a{% endif %}",
    "{% if user.missing.x %}a{% endif %}",
    "{% if items and user %}ok{% endif %}",
    "{% if not (yes and no) %}ok{% endif %}",
    "{% if 'a' in 'abc' and 1 not in [2] %}ok{% endif %}",
    "{% macro hi(who, greeting='Hello') %}{{ greeting }} {{ who }}!{% endmacro %}{{ hi('A') }} {{ hi('B', 'Bye') }} {{ hi(who='C', greeting='Yo') }}",
    "{% macro m(a, b=a) %}{{ a }}{{ b }}{% endmacro %}{{ m(1) }}{{ m(1, 2) }}",
    "{% macro m(a) %}[{{ a }}]{% endmacro %}{{ m() }}",
    "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1, 2) }}",
    "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(b=2) }}",
    "{% macro m() %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, 2, x=3) }}",
    "{% macro m(a) %}{{ a }}{{ varargs | join('+') }}{% endmacro %}{{ m(1, 2, 3) }}",
    "{% macro fact(n) %}{% if n <= 1 %}1{% else %}{{ n * (fact(n - 1) | int) }}{% endif %}{% endmacro %}{{ fact(10) }}",
    "{% macro wrap(tag) %}<{{ tag }}>{{ caller() }}</{{ tag }}>{% endmacro %}{% call wrap('b') %}bold {{ name }}{% endcall %}",
    "{% macro each(xs) %}{% for x in xs %}{{ caller(x, loop.index) }}{% endfor %}{% endmacro %}{% call(x, i) each(items) %}{{ i }}={{ x }};{% endcall %}",
    "{% macro m() %}{{ n }}{% set n = 1 %}{{ n }}{% endmacro %}{{ m() }}{{ n }}",
    "{% set v = 'outer' %}{% macro m() %}{{ v }}{% endmacro %}{% for i in [1] %}{% set v = 'inner' %}{{ m() }}{% endfor %}",
    "{% macro a() %}{{ b() }}{% endmacro %}{% macro b() %}B{% endmacro %}{{ a() }}",
    "{% macro m() %}{% endmacro %}[{{ m() }}]{{ m.name }}{{ m is callable }}",
    "{% set args = [1, 2] %}{% macro m(a, b, c=3) %}{{ a }}{{ b }}{{ c }}{% endmacro %}{{ m(*args) }}{{ m(*args, c=9) }}{{ m(**{'a': 7, 'b': 8}) }}",
    "{% filter upper %}hello {{ name }}{% endfilter %}",
    "{% filter replace('l', 'L') | trim %} hello {% endfilter %}",
    "{% with a = 1, b = 2 %}{{ a + b }}{% endwith %}{{ a is defined }}",
    "{% with %}{% set q = 1 %}{{ q }}{% endwith %}{{ q is defined }}",
    "{% raw %}{{ not }} {% evaluated %}{# #}{% endraw %}!",
    "a {%- raw -%}  {{ x }}  {%- endraw -%}  b",
    "a{# comment #}b{# multi\nline #}c",
    "{# {{ x }} {% if %} #}ok",
    "{{ '}}' }}{{ '{%' }}{{ \"%}\" }}",
    "{{ {'a': {'b': 1}}['a']['b'] }}",
    "{{ {'a': {'b': {}}} }}",
    "  {% if yes %}\n  yes\n  {% endif %}\n  after",
    "{% if yes %}\nA\n{% endif %}\nB\n",
    "{% if yes -%}\n\n  A  \n\n{%- endif %}\nB\n\n",
    "x  {{- name -}}  y",
    "x\n\n{{- name }}\n\ny",
    "x \n {%- if yes %} \n y {%- endif -%} \n z",
    "   {%+ if yes %}keep{% endif %}",
    "{% if yes +%}\nkept newline{% endif %}",
    "line\n    {# c #}\nnext",
    "line\n    {#- c -#}\n  next",
    "a\n  {{ name }}\nb",
    "<ul>\n{% for i in items %}\n  <li>{{ i }}</li>\n{% endfor %}\n</ul>\n",
    "{% for i in items -%}\n  {{ i }}\n{%- endfor %}",
    "{%- for i in items %}\n    {{- i }}\n{%- endfor %}",
    "tabs\t{% if yes %}\tx\t{% endif %}\t\n",
    "\r\n{% if yes %}\r\na\r\n{% endif %}b\r",
    "trailing\n\n",
    "{{-1}}",
    "{{ -1 }}",
    "{{+1}}",
    "{{- 1 -}}  2",
    "{{name}}{{n}}",
    "{{ name }}\n",
    "\n\n{{ name }}",
    "{% generation %}{{ name }}{% endgeneration %}!",
    "{% set x = 1 %}{% generation %}{% set x = 2 %}{{ x }}{% endgeneration %}{{ x }}",
    "{{ raise_exception('bad role: ' + user.name) }}",
    "{% if n > 3 %}{{ raise_exception('too big') }}{% endif %}",
    "{% include 'x' %}", "{% extends 'x' %}", "{% import 'x' as y %}",
    "{% for %}", "{% if %}x{% endif %}", "{% endif %}", "{% if yes %}", "{{ 1 +", "{{ 1 + }}", "{{ }}", "{% nope %}", "{{ a b }}",
    "{{ 'open }}", "{# open", "{% raw %}x", "{{ (1 }}", "{{ 1) }}", "{{ [1, 2 }}", "{% set 1 = 2 %}", "{% set x %}y", "{% macro m %}x{% endmacro %}",
    "{% macro m(a=1, b) %}{% endmacro %}", "{{ f(a=1, 2) }}", "{% break %}", "{% for x in y %}{% endif %}", "{{ x is }}", "{{ x | }}",
    "{{ x.  }}", "{{ 5.name }}", "{% set none = 1 %}", "{{ 1 if }}", "{{ not }}", "{{ {1} }}", "{{ {'a'} }}", "{{ @ }}", "{{ a = 1 }}",
    "{% else %}", "{% elif x %}", "plain text only", "", "{", "}", "{ {", "%}", "{%", "{{", "100% {x} }}",
    "{% for m in messages %}{% if loop.first %}{{ m.role }}{% else %}, {{ m['role'] }}{% endif %}: {{ m.content | trim }}{% endfor %}",
    "{% set sys = messages | selectattr('role', 'equalto', 'system') | list %}{{ sys | length }}{{ (sys | first).content if sys else 'none' }}",
    "{% set last = messages | last %}{{ last.role }}{% set first = messages[0] %}{{ first['content'] }}",
    "{%- set roles = messages | map(attribute='role') | unique | list -%}{{ roles }}",
    "{{ messages[0]['role'] == 'user' and messages[-1].role != 'user' }}",
    "{{ messages[1:] | map(attribute='content') | join }}",
    "{% for m in messages[::-1] %}{{ m.content }}{% endfor %}",
    "{% for m in messages %}{% set m = m.content %}{{ m }}{% endfor %}",
    "{% set messages = messages + [{'role': 'x', 'content': 'z'}] %}{{ messages | length }}{{ messages[-1].content }}",
    "{% for g in users | groupby('age') %}{{ g.grouper }}:{{ g.list | map(attribute='name') | join('+') }} {% endfor %}",
    "{% for age, us in users | groupby('age') %}{{ age }}={{ us | length }} {% endfor %}",
    "{% for row in items | batch(2) %}{{ row }}{% endfor %}",
    "{% for x in items | sort | reverse %}{{ x }}{% endfor %}",
    "{% for x in (1, 2) %}{{ x }}{% endfor %}{{ x }}",
    "{{ loop is defined }}{% for i in [1] %}{{ loop is defined }}{% endfor %}",
    "{% for i in [1] %}{{ loop }}{% endfor %}",
    "{% set f = name.upper %}{{ f() }}",
    "{% set d = {'f': 1} %}{% set d = dict(d, g=2) %}{{ d }}",
    "{{ [1, 2, 3] | select('greaterthan', 1) | map('string') | list }}",
    "{% set x = namespace(a=namespace(b=1)) %}{{ x.a.b }}",
    "{{ (1, 2) == [1, 2] }}{{ (1, 2) == (1, 2) }}{{ {'a': 1} == {'a': 1.0} }}",
    "{{ 'a' ~ ('b' if no) ~ 'c' }}",
    "{{ name if name else 'x' | upper }}",
    "{{ (name, n) | join('-') }}",
    "{{ 1 in {1: 2} }}{{ none in [none] }}{{ true in [1] }}",
    "{% set x = 'a' %}{% if x == 'a' %}{% set x = 'b' %}{% endif %}{{ x }}",
]

SNIPPETS = ["{{ " + e + " }}" for e in EXPRESSIONS] + STATEMENTS
