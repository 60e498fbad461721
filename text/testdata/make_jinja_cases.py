#!/usr/bin/env python3
"""Writes jinja_cases.json: templates, variables, and what Jinja 3.1 makes of them set up as Hugging Face does.

Run in this folder, with jinja2 3.1 installed; jinja_template_test.cc runs the cases against our interpreter. The chat
templates are those of the models named, as published in their tokenizer_config.json.
"""
import datetime
import json

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

NOW = datetime.datetime(2025, 3, 9, 14, 5, 7)


class Generation(Extension):
    """{% generation %}, which marks what the assistant wrote and changes nothing in the text."""

    tags = {"generation"}

    def parse(self, parser):
        lineno = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(lineno)

    def _body(self, caller):
        return caller()


def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
environment.filters["tojson"] = tojson
environment.globals["raise_exception"] = raise_exception
environment.globals["strftime_now"] = NOW.strftime

cases = []


def add(name, template, template_file=None, **context):
    case = {"name": name, "context": context}
    case |= {"template_file": template_file} if template_file else {"template": template}
    try:
        variables = {"messages": [], "add_generation_prompt": True, "bos_token": "", "eos_token": "", "tools": None,
                     "documents": None, **context}
        case["expected"] = environment.from_string(template).render(**variables)
    except Exception as error:  # whatever Jinja or Python refuses
        case["error"] = f"{type(error).__name__}: {error}"
    cases.append(case)


def add_all(group, templates, **context):
    for i, template in enumerate(templates):
        add(f"{group} {i}", template, **context)


# --- whitespace control
add_all('whitespace', [
    'a\n{% if true %}\nb\n{% endif %}\nc\n',
    'a\n  {% if true %}  \nb\n  {% endif %}\nc',
    'a\n  {%+ if true %}\nb{% endif +%}\nc',
    'a  {%- if true -%}  b  {%- endif -%}  c',
    '  {{- 1 -}}  x',
    ' {{ 1 }} \n {{ 2 }}\n\n',
    'a\n  {# c #}\nb',
    'a {#- c -#} b',
    'a\n  {#+ c +#}\nb',
    'x\n\n',
    'x\r\ny\r\n{% if 1 %}\r\nz\r\n{% endif %}\r\n',
    '{% raw %}{{ x }}{% endraw %}',
    'a {%- raw -%}  {% if %} {%- endraw -%}  b',
    'a\n  {% raw %}\n {{ x }}\n  {% endraw %}\nb',
    "{{ 'a' }}\n{{ 'b' }}\n",
    '{% for i in [1,2] %}\n  {{ i }}\n{% endfor %}\nend',
    '{%- for i in [1,2] -%}\n  {{ i }}\n{%- endfor -%}\nend',
    '\n\n a',
    '{}{ {',
    '{% set x = 1 -%}\n\n  y',
    '  {% set x = 1 %}z',
    '\t{% if 1 %}\tq{% endif %}',
    '{{ \'}}\' }}{{ "%}" }}{% if \'%}\' %}a{% endif %}',
    "{{ {'a': {'b': 1}}['a']['b'] }}",
    "{{{'a': 1}['a']}}",
    'a{#\n\n#}\nb',
    '{% if true %}a{% endif %}\n\nb',
    '\xa0{%- if 1 %}x{% endif %}',
    '{{ 1\n+\n2 }}',
    'x{{-1}}',
    '{{ 1 }}\n{#- c #}\n{{ 2 }}',
    '{%- if 1 %}\n\n\n{%- endif %}',
])

# --- literals and printing
add_all('literals', [
    '{{ true }} {{ false }} {{ none }} {{ True }} {{ False }} {{ None }}',
    '{{ 1 }} {{ 1.0 }} {{ 1.5e3 }} {{ 1e20 }} {{ 1e-7 }} {{ 0.1 + 0.2 }}',
    '{{ 1_000 }} {{ 123456789012 * 10 }}',
    '{{ \'a\' \'b\' "c" }}',
    '{{ \'a\\n\\t\\\\\\\'\\"b\' }}',
    "{{ '\\x41\\u00e9\\U0001F600\\101\\q' }}",
    "{{ [1, 'a', none, true, 1.5] }}",
    "{{ {'a': 1, 'b': [1, 2], 3: none} }}",
    '{{ (1, 2) }} {{ (1,) }} {{ () }}',
    '{{ 1, 2 }}',
    '{{ [] }}{{ {} }}',
    ('{{ [\'it\\\'s\', \'say "x"\', \'both \\\' "\', \'n\\nt\\t\\\\\', \'é\', \'\\u200b\', \'\\x7f\', \'\\U0001F600'
     "'] }}"),
    '{{ x }}|{{ x.y }}',
    '{{ 1e16 }} {{ 123456789.123 }} {{ 1e15 }} {{ 0.0001 }} {{ 0.00001 }} {{ -0.0 }}',
    '{{ 5 // 2 }} {{ -5 // 2 }} {{ 5 % 3 }} {{ -5 % 3 }} {{ 5 % -3 }} {{ 7 / 2 }} {{ 6 / 2 }}',
    '{{ 2 ** 10 }} {{ 2 ** -1 }} {{ 2.0 ** 3 }} {{ 2 ** 3 ** 2 }} {{ -2 ** 2 }}',
    '{{ 5.5 // 2 }} {{ -5.5 % 2 }} {{ 1 / 3 }}',
    '{{ 1 + true }} {{ true + true }}',
    "{{ 'ab' * 3 }} {{ [1] * 2 }} {{ 2 * 'x' }} {{ 'x' * -1 }}",
    '{{ 1 / 0 }}',
    '{{ 1 % 0 }}',
    "{{ 'a' + 1 }}",
    "{{ 'a' ~ 1 ~ none ~ true ~ [1] }}",
    '{{ [1] + [2, 3] }} {{ (1,) + (2,) }}',
    '{{ [1] + (2,) }}',
    '{{ -x }}',
    "{{ +'a' }}",
    '{{ - 3 + 2 }} {{ -(1 + 2) }} {{ 3 - -2 }}',
    '{{ 10 - 2 - 3 }} {{ 2 + 3 * 4 }} {{ (2 + 3) * 4 }}',
    "{{ '%s is %d years, %.2f %r %%' % ('Al', 5, 1.234, 'q') }}",
    "{{ '%5s|%-5s|%05d|%x' % ('a', 'b', 42, 255) }}",
    "{{ '%s' % 'x' }}",
])

# --- comparison and logic
add_all('logic', [
    ("{{ 1 == 1.0 }} {{ 1 == '1' }} {{ true == 1 }} {{ none == false }} {{ [1] == [1] }} {{ {'a': 1} == {'a': 1.0} }"
     '} {{ (1,) == [1] }}'),
    "{{ 1 < 2 < 3 }} {{ 1 < 3 < 2 }} {{ 'a' < 'b' }} {{ [1, 2] < [1, 3] }} {{ 1 <= 1 >= 1 }} {{ 2 != 3 }}",
    "{{ 1 < 'a' }}",
    '{{ none < 1 }}',
    "{{ 'b' in 'abc' }} {{ 'x' not in 'abc' }} {{ 1 in [1] }} {{ 'a' in {'a': 1} }} {{ 1 in {'a': 1} }}",
    "{{ 1 in 'abc' }}",
    '{{ 1 in 5 }}',
    "{{ 0 or 'x' }} {{ '' or none }} {{ 1 and 2 }} {{ 0 and 1 }} {{ not 0 }} {{ not not 'a' }}",
    '{{ 1 or x.y.z }}',
    '{{ true and false or true }} {{ not true or true }} {{ not (true or true) }}',
    "{{ 'a' if true else 'b' }} {{ 'a' if false else 'b' }} {{ 'a' if false }}|",
    '{{ 1 if 0 else 2 if 0 else 3 }}',
    '{{ x in [1] }} {{ x == y }} {{ x == none }}',
    "{{ 'a' in x }}",
    '{{ not x }}',
    '{{ 1 is not none }} {{ none is not none }}',
    "{{ 'a' == 'a' and 'b' != 'c' }}",
    '{{ 3 in [1,2] + [3] }}',
    "{{ not 'a' in 'abc' }}",
    '{{ 1 is odd and 2 is even }}',
])

# --- undefined
add_all('undefined', [
    '{{ x.y.z }}',
    "{{ x['a']['b'] }}",
    '{{ x() }}',
    '{{ x + 1 }}',
    '{{ x | length }}',
    '{% for a in x %}{{ a }}{% else %}none{% endfor %}',
    "{{ x is defined }} {{ x is undefined }} {{ m.a is defined }} {{ m.b is defined }} {{ m['b'] is undefined }}",
    ("{{ x | default('d') }} {{ m.a | default('d') }} {{ '' | default('d') }} {{ '' | default('d', true) }} {{ none "
     "| default('d') }}|{{ x | default }}"),
    "{{ x ~ 'a' }}",
    '{{ x | upper }}|{{ x | trim }}|',
    '{{ m.b.c }}',
    '{{ m.a.c }}',
    '{{ [1][5] }}|{{ [1][-1] }}|{{ [1][-2] }}',
    "{{ 'abc'[5] }}|{{ 'abc'[1] }}|{{ 'abc'[-1] }}",
    "{{ none.a }}|{{ (1).a }}|{{ none['a'] }}",
    '{{ x | tojson }}',
    "{{ x | list }} {{ x | join(',') }} {{ x|string }}|",
], m={'a': 1})

# --- slices
add_all('slices', [
    ('{{ l[1:] }} {{ l[:2] }} {{ l[-2:] }} {{ l[:-1] }} {{ l[::2] }} {{ l[::-1] }} {{ l[3:0:-1] }} {{ l[10:] }} {{ l'
     '[-10:2] }} {{ l[:] }} {{ l[-1:-4:-2] }}'),
    '{{ s[1:] }} {{ s[::-1] }} {{ s[:3] }} {{ s[-3:] }} {{ s[1:4:2] }}',
    "{{ 'héllo wörld'[1:8] }} {{ 'héllo'[::-1] }} {{ 'héllo'[1] }}",
    '{{ l[::0] }}',
    "{{ l['a':] }}",
    '{{ 5[1:] }}',
    '{{ (1, 2, 3)[1:] }}',
    "{{ [][::-1] }}|{{ ''[::-1] }}|",
], l=[1, 2, 3, 4, 5], s='abcdef')

# --- statements
add_all('set', [
    '{% set x = 1 %}{{ x }}',
    '{% set a, b = 1, 2 %}{{ a }}{{ b }}',
    '{% set a, b = [1, 2, 3] %}',
    '{% set x %}a{{ 1 }}b{% endset %}[{{ x }}]',
    '{% set x | upper %}abc{% endset %}{{ x }}',
    "{% set x | replace('a', 'b') | upper %}abc{% endset %}{{ x }}",
    ("{% set ns = namespace(a=1, b='x') %}{% set ns.a = 2 %}{% set ns.c = 3 %}{{ ns.a }}{{ ns.b }}{{ ns.c }}{{ ns.d "
     '}}'),
    '{% set m.a = 1 %}',
    '{% set x = 1, 2 %}{{ x }}',
    '{% set (a, b) = (1, 2) %}{{ a + b }}',
    '{% if true %}{% set y = 5 %}{% endif %}{{ y }}',
    '{% set x = 1 %}{% for i in [1,2] %}{{ x }}{% set x = x + 1 %}{{ x }} {% endfor %}{{ x }}',
    "{% for i in [1,2,3] %}{% if i == 1 %}{% set z = 'set' %}{% endif %}[{{ z }}]{% endfor %}",
    '{% set ns = namespace(n=0) %}{% for i in range(5) %}{% set ns.n = ns.n + i %}{% endfor %}{{ ns.n }}',
    "{% set ns = namespace({'a': 1}, b=2) %}{{ ns.a + ns.b }}",
    '{% set x = namespace() %}{{ x.y is defined }}',
    '{% set true = 1 %}',
    '{% set x = %}',
    '{% set x.y %}a{% endset %}',
    '{% with a=1, b=2 %}{{ a + b }}{% endwith %}{{ a }}',
    '{% set a = 5 %}{% with a=1, b=a %}{{ a }}{{ b }}{% endwith %}{{ a }}',
], m={})
add_all('for', [
    ('{% for i in [1,2,3] %}{{ loop.index }}/{{ loop.index0 }}/{{ loop.revindex }}/{{ loop.revindex0 }}/{{ loop.firs'
     't }}/{{ loop.last }}/{{ loop.length }}/{{ loop.previtem }}/{{ loop.nextitem }} {% endfor %}'),
    '{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}',
    '{% for k in d %}{{ k }}{% endfor %}',
    '{% for k, v in d | items %}{{ k }}{{ v }}{% endfor %}',
    "{% for c in 'héy' %}[{{ c }}]{% endfor %}",
    '{% for i in [] %}x{% else %}empty{% endfor %}',
    '{% for i in range(10) if i is odd %}{{ loop.index }}:{{ i }} {% endfor %}',
    '{% for i in [1,2] if i > 5 %}x{% else %}none{% endfor %}',
    ('{% for i in range(10) %}{% if i == 3 %}{% continue %}{% endif %}{% if i == 6 %}{% break %}{% endif %}{{ i }}{%'
     ' endfor %}'),
    '{% for a, b in [(1, 2), (3, 4)] %}{{ a }}-{{ b }} {% endfor %}',
    '{% for a, b in [1, 2] %}{% endfor %}',
    '{% for i in 5 %}{% endfor %}',
    '{% for i in none %}{% endfor %}',
    "{% for i in [1,2,3] %}{{ loop.cycle('a', 'b') }}{% endfor %}",
    '{% for i in [1,1,2] %}{{ loop.changed(i) }} {% endfor %}',
    ('{% for i in [1,2] %}{% for j in [1,2] %}{{ loop.index }}{{ i }}{{ j }} {% endfor %}{{ loop.index }}|{% endfor '
     '%}'),
    '{% for x in tree recursive %}{{ x.n }}{% if x.c %}({{ loop(x.c) }}){% endif %}{{ loop.depth }}{% endfor %}',
    '{% for i in range(3) %}{{ i }}{% if not loop.last %}, {% endif %}{% endfor %}',
    '{{ loop }}',
    '{{ range(3) | list }} {{ range(1, 4) | list }} {{ range(5, 0, -2) | list }}',
    '{% for i in 1, 2, 3 %}{{ i }}{% endfor %}',
    '{% for i in d.values() | list + [9] %}{{ i }}{% endfor %}',
    '{% for (a, b), c in [((1, 2), 3)] %}{{ a }}{{ b }}{{ c }}{% endfor %}',
    '{% for i in [3,1,2] | sort | reverse %}{{ i }}{% endfor %}',
    '{% break %}',
    '{% for m in messages %}{{ m.role }}{{ loop.index0 }}{% endfor %}',
],
        d={'a': 1, 'b': 2},
        tree=[{'n': 'r', 'c': [{'n': 'x'}, {'n': 'y', 'c': [{'n': 'z'}]}]}],
        messages=[{'role': 'user'}, {'role': 'bot'}])
add_all('if', [
    '{% if 0 %}a{% elif 1 %}b{% else %}c{% endif %}',
    "{% if 0 %}a{% elif '' %}b{% elif [] %}d{% else %}c{% endif %}",
    '{% if {} %}a{% endif %}',
    '{% if x %}a{% else %}b{% endif %}',
    '{% if 1 %}{% if 0 %}a{% else %}b{% endif %}{% endif %}',
    '{% if %}{% endif %}',
    '{% if 1 %}',
    '{% endif %}',
    '{% else %}',
    '{% if 1 %}{% else %}{% else %}{% endif %}',
    '{% if 1 %}{% endfor %}',
    '{% unknown %}',
    '{% if (1, 2) %}a{% endif %}',
    '{% if 1 == 1 and\n   2 == 2 %}y{% endif %}',
])
add_all('macro', [
    '{% macro f(a, b=2) %}{{ a }}{{ b }}{% endmacro %}{{ f(1) }} {{ f(1, 3) }} {{ f(b=5, a=4) }}',
    '{% macro f(a) %}[{{ a }}]{% endmacro %}{{ f() }}',
    '{% macro f(a) %}{% endmacro %}{{ f(1, 2) }}',
    '{% macro f(a) %}{% endmacro %}{{ f(b=2) }}',
    '{% macro f() %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ f(1, 2, x=3) }}',
    '{% macro f() %}<{{ caller() }}>{% endmacro %}{% call f() %}body{% endcall %}',
    '{% macro f() %}<{{ caller(5) }}>{% endmacro %}{% call(x) f() %}body{{ x }}{% endcall %}',
    ('{% macro fact(n) %}{% if n <= 1 %}1{% else %}{{ n * (fact(n - 1) | int) }}{% endif %}{% endmacro %}{{ fact(5) '
     '}}'),
    "{% set x = 'outer' %}{% macro f() %}{{ x }}{% endmacro %}{% set x = 'later' %}{{ f() }}",
    '{% macro f() %}{{ i }}{% endmacro %}{% for i in [1] %}[{{ f() }}]{% endfor %}',
    '{% for i in [1,2] %}{% macro f() %}{{ i }}{% endmacro %}{{ f() }}{% endfor %}',
    '{% macro f(a, a2=a) %}{{ a2 }}{% endmacro %}{{ f(3) }}',
    "{% macro f(x) -%}\n  {{ x }}\n{%- endmacro %}[{{ f('a') }}]",
    '{% macro f(x) %}{% set y = x %}{{ y }}{% endmacro %}{{ f(1) }}[{{ y }}]',
    '{{ f }}{% macro f() %}{% endmacro %}',
    "{% macro f() %}a{% endmacro %}{{ f() | upper }} {{ f() ~ 'b' }} {{ f is callable }}",
    '{% macro f(a=1, b) %}{% endmacro %}',
    "{% macro f(a, b) %}{{ a }}{{ b }}{% endmacro %}{{ f(*[1, 2]) }}{{ f(**{'a': 3, 'b': 4}) }}",
    '{% macro f() %}{{ caller() }}{% endmacro %}{{ f() }}',
    ('{% macro f() %}{% for i in [1,2] %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}{% endmacro %}{{ f('
     ') }}'),
    "{% filter upper %}a{{ 'b' }}{% endfilter %}",
    "{% filter replace('a', 'x') | upper %}abc{% endfilter %}",
    '{% generation %}a{{ 1 }}{% endgeneration %}',
    '{%- generation -%} a {%- endgeneration -%}',
])

# --- filters
add_all('filters', [
    "{{ ' a b ' | trim }}|{{ 'xxaxx' | trim('x') }}",
    ("{{ 'abc' | upper }} {{ 'ABC' | lower }} {{ 'hello world' | title }} {{ 'hELLO wORLD' | capitalize }} {{ 'a-b c"
     "(d' | title }}"),
    "{{ [1,2,3] | length }} {{ 'héllo' | length }} {{ {'a': 1} | length }} {{ 'ab' | count }}",
    '{{ 5 | length }}',
    "{{ [1,2,3] | first }} {{ [1,2,3] | last }} {{ 'abc' | first }} {{ 'abc' | last }} {{ [] | first }}|",
    ("{{ [1,2,3] | join(', ') }} {{ ['a', 1, none] | join }} {{ l | join('-', attribute='n') }} {{ 'abc' | join('.')"
     ' }}'),
    "{{ 'a.b.c' | replace('.', '-') }} {{ 'aaa' | replace('a', 'b', 2) }} {{ 'abc' | replace('', '-') }}",
    ("{{ [3,1,2] | sort }} {{ ['b', 'A', 'c'] | sort }} {{ ['b', 'A'] | sort(case_sensitive=true) }} {{ [1,2] | sort"
     "(reverse=true) }} {{ l | sort(attribute='n') | map(attribute='n') | list }}"),
    "{{ [1, 'a'] | sort }}",
    "{{ [1,2,3] | reverse | list }} {{ 'abc' | reverse }}",
    ("{{ '42' | int }} {{ 'x' | int }} {{ 'x' | int(7) }} {{ 3.9 | int }} {{ '3.9' | int }} {{ '0x1F' | int(base=16)"
     " }} {{ '-5' | int }} {{ true | int }} {{ none | int }}"),
    "{{ '1.5' | float }} {{ 'x' | float }} {{ 3 | float }} {{ 'x' | float(2.5) }}",
    ("{{ 3.567 | round(2) }} {{ 3.5 | round }} {{ 2.5 | round }} {{ 3.2 | round(method='ceil') }} {{ 3.9 | round(0, "
     "'floor') | int }}"),
    '{{ -5 | abs }} {{ (-5) | abs }} {{ -1.5 | abs }}',
    "{{ 1 | string }} {{ [1] | string }} {{ none | string }} {{ 1.0 | string + 'a' }}",
    ("{{ [1,2,3,4] | select('even') | list }} {{ [1,2,3] | reject('odd') | list }} {{ [0, 1, '', 'a'] | select | lis"
     't }}'),
    ("{{ l | selectattr('n') | list | length }} {{ l | selectattr('n', 'equalto', 2) | list }} {{ l | rejectattr('n'"
     ", '>', 1) | list }} {{ l | selectattr('zzz', 'defined') | list }}"),
    ("{{ ['a', 'b'] | map('upper') | list }} {{ l | map(attribute='n') | list }} {{ l | map(attribute='q', default='"
     "-') | join }} {{ [1.5, 2.5] | map('int') | list }} {{ ['a,b'] | map('replace', ',', '') | list }}"),
    "{{ [1,2,2,'a','A'] | unique | list }}",
    "{{ [1,2,3] | sum }} {{ l | sum(attribute='n') }} {{ [[1],[2]] | sum(start=[]) }}",
    "{{ [3,1,2] | min }} {{ [3,1,2] | max }} {{ l | max(attribute='n') }} {{ [] | max }}|",
    ("{{ {'b': 1, 'a': 2} | dictsort }} {{ {'b': 1, 'a': 2} | dictsort(by='value') }} {{ {'b': 1, 'a': 2} | dictsort"
     '(reverse=true) }}'),
    "{{ {'a': 1} | items | list }}",
    ("{{ [1,2,3,4,5] | batch(2) | list }} {{ [1,2,3] | batch(2, 'x') | list }} {{ [1,2,3,4,5] | slice(2) | list }} {"
     "{ [1,2,3,4,5] | slice(3, 'f') | list }}"),
    "{{ 'a\nb\n\nc' | indent }}|{{ 'a\nb' | indent(2, true) }}|{{ 'a\n\nb' | indent(2, blank=true) }}",
    ("{{ 'hello world foo bar' | truncate(10) }}|{{ 'hello world foo' | truncate(10, true) }}|{{ 'short' | truncate("
     "10) }}|{{ 'hello world foo' | truncate(9, false, '!', 0) }}"),
    '{{ \'<a href="x">&\\\'\' | escape }} {{ \'<\' | e }} {{ \'a b/c?d=é\' | urlencode }}',
    "{{ 'a b  c' | wordcount }}",
    "{{ '%s-%s' | format('a', 1) }}",
    "{{ 'x' | center(5) }}|",
    "{{ l | attr('n') }}|",
    "{{ 'a' | nosuchfilter }}",
    "{{ x | default(['a']) | first }}",
    "{{ ['x', 'y'] | list }} {{ 'ab' | list }} {{ {'k': 1} | list }}",
    "{{ l | groupby('n') | list }}",
    "{{ l | map(attribute='m.k') | list }}",
    "{{ 'a' | safe }}",
    "{{ 'abc' | trim | upper | replace('B', 'x') }}",
    '{{ (1, 2) | first }} {{ 5 | string | length }}',
    "{{ 'Straße' | upper }} {{ 'ÉCOLE' | lower }}",
    "{{ ' \u3000a\xa0' | trim }}|",
    "{{ '' | capitalize }}|{{ 'é' | capitalize }}",
    '{{ [1,2]|length == 2 }}',
    "{{ 'a,b'|replace(',', '|') }}",
    "{{ 'abc' | upper() }}",
], l=[{'n': 2, 'm': {'k': 1}}, {'n': 1, 'm': {'k': 2}}])
add_all('tojson', [
    '{{ d | tojson }}',
    '{{ d | tojson(indent=2) }}',
    '{{ d | tojson(indent=4, sort_keys=true) }}',
    '{{ d | tojson(ensure_ascii=true) }}',
    "{{ d | tojson(separators=(',', ':')) }}",
    '{{ [] | tojson(indent=2) }} {{ {} | tojson(indent=2) }} {{ [[], {}] | tojson(indent=1) }}',
    ("{{ (1, 2) | tojson }} {{ 'a' | tojson }} {{ none | tojson }} {{ true | tojson }} {{ 1.0 | tojson }} {{ 1e30 | "
     'tojson }}'),
    '{{ {1: 2, none: 3, true: 4, 1.5: 5} | tojson }}',
    '{{ \'</script>&\\\'"\\\\\\u2028\\x7f\\x01\' | tojson }}',
    '{{ namespace(a=1) | tojson }}',
    "{{ 'é😀' | tojson(ensure_ascii=true) }}",
    '{{ d.s | tojson }}',
], d={'b': [1, 2.5, None, True], 'a': {'x': 'é\n"q"', 'y': []}, 's': 'tab\tnl\nü\x00\x1f/'})

# --- tests
add_all('tests', [
    ("{{ 1 is number }} {{ 1.0 is number }} {{ '1' is number }} {{ true is number }} {{ true is integer }} {{ 1 is i"
     'nteger }} {{ 1.0 is float }} {{ true is boolean }}'),
    ("{{ 'a' is string }} {{ 1 is string }} {{ {} is mapping }} {{ [] is mapping }} {{ [] is sequence }} {{ 'a' is s"
     'equence }} {{ 1 is sequence }} {{ {} is sequence }}'),
    ("{{ [] is iterable }} {{ 'a' is iterable }} {{ 1 is iterable }} {{ none is iterable }} {{ x is iterable }} {{ r"
     'ange(2) is iterable }}'),
    '{{ none is none }} {{ x is none }} {{ 1 is none }}',
    '{{ true is true }} {{ 1 is true }} {{ false is false }} {{ 0 is false }}',
    '{{ 4 is divisibleby 2 }} {{ 5 is divisibleby(2) }}',
    ('{{ 1 is eq 1 }} {{ 1 is equalto 2 }} {{ 1 is ne 2 }} {{ 1 is lt 2 }} {{ 2 is ge(2) }} {{ 1 is in [1, 2] }} {{ '
     '3 is in([1]) }}'),
    "{{ 'ABC' is upper }} {{ 'abc' is lower }} {{ 'aBc' is lower }} {{ '1' is lower }}",
    '{{ 1 is sameas 1 }} {{ none is sameas none }} {{ true is sameas true }}',
    '{{ range is callable }} {{ 1 is callable }}',
    '{{ 1 is nosuchtest }}',
    "{{ 'a' is not string }} {{ not 'a' is string }}",
    '{{ x is defined and x.y }}',
    "{{ 'a' is string or x.y.z }}",
    "{{ 3 is odd }} {{ 'a' is odd }}",
])

# --- methods
add_all('methods', [
    ("{{ ' a '.strip() }}|{{ 'xxaxx'.strip('x') }}|{{ 'xxa'.lstrip('x') }}|{{ 'axx'.rstrip('x') }}|{{ ' a '.lstrip()"
     " }}|{{ ' a '.rstrip() }}|{{ 'éaé'.strip('é') }}"),
    ("{{ 'a,b,c'.split(',') }} {{ ' a  b '.split() }} {{ 'a,b,c'.split(',', 1) }} {{ 'a b c'.split(none, 1) }} {{ 'a"
     ",b,c'.rsplit(',', 1) }} {{ ' a  b c '.rsplit(none, 1) }} {{ ''.split() }} {{ ''.split(',') }} {{ 'aXXbXX'.spli"
     "t('XX') }}"),
    "{{ 'a'.split('') }}",
    "{{ 'a\nb\r\nc\n'.splitlines() }} {{ 'a\nb'.splitlines(true) }} {{ ''.splitlines() }}",
    ("{{ 'abc'.startswith('ab') }} {{ 'abc'.endswith('bc') }} {{ 'abc'.startswith(('x', 'a')) }} {{ 'abc'.startswith"
     "('') }}"),
    "{{ 'abc'.startswith(1) }}",
    ("{{ 'hello'.find('l') }} {{ 'hello'.rfind('l') }} {{ 'hello'.find('z') }} {{ 'héllo'.find('l') }} {{ 'hello'.in"
     "dex('l') }}"),
    "{{ 'hello'.index('z') }}",
    ("{{ 'aXbX'.replace('X', '-') }} {{ 'aaa'.replace('a', 'b', 1) }} {{ 'ab'.replace('', '-') }} {{ 'ab'.replace(''"
     ", '-', 2) }} {{ ''.replace('', 'x') }}"),
    "{{ ','.join(['a', 'b']) }} {{ ''.join([]) }}",
    "{{ ','.join([1]) }}",
    "{{ 'abcabc'.count('a') }} {{ 'aaa'.count('aa') }} {{ 'ab'.count('') }}",
    ('{{ \'aBc\'.upper() }} {{ \'aBc\'.lower() }} {{ \'a bC\'.title() }} {{ "it\'s a".title() }} {{ \'aBC\'.capitali'
     "ze() }} {{ 'aBc'.swapcase() }}"),
    ("{{ '12'.isdigit() }} {{ ''.isdigit() }} {{ 'ab'.isalpha() }} {{ 'a1'.isalnum() }} {{ ' '.isspace() }} {{ 'AB'."
     "isupper() }} {{ 'a1'.islower() }} {{ 'é'.isascii() }}"),
    "{{ 'prefix_a'.removeprefix('prefix_') }} {{ 'a.txt'.removesuffix('.txt') }}",
    "{{ 'a=b=c'.partition('=') }} {{ 'a=b=c'.rpartition('=') }} {{ 'a'.partition('=') }} {{ 'a'.rpartition('=') }}",
    "{{ 'a'.ljust(3) }}|{{ 'a'.rjust(3, '-') }}|{{ 'ab'.center(5) }}|{{ 'abc'.center(6) }}|{{ '-5'.zfill(4) }}",
    "{{ '{} {}'.format('a', 1) }} {{ '{1}{0}'.format('a', 'b') }} {{ '{x}'.format(x=5) }} {{ '{{}}'.format() }}",
    ("{{ d.get('a') }} {{ d.get('z') }} {{ d.get('z', 5) }} {{ d.keys() | list }} {{ d.values() | list }} {{ d.items"
     '() | list }}'),
    "{{ d.a }} {{ d['a'] }}",
    '{{ [1,2,1].count(1) }} {{ [1,2].index(2) }}',
    '{{ [1].append(2) }}',
    '{% set l = [] %}{% if l.append(1) %}{% endif %}',
    "{{ d.update({'z': 1}) }}",
    "{{ d.pop('a') }}",
    "{{ 'abc'.nosuch() }}",
    '{{ (1).foo() }}',
    "{{ {'items': 5}.items() | list }} {{ {'items': 5}['items'] }}",
    "{{ 'x'.strip().upper().lower() }}",
    "{{ ('a' ~ 'b').upper() }} {{ ['a'][0].upper() }}",
    "{{ 'a' 'b'.upper() }}",
    "{{ 'abc'.split('b')[0] }} {{ 'abc'.split('b')[-1] }}",
    "{{ 'a\\n'.rstrip('\\n') }}|",
    "{{ '\u2003x\u2003'.strip() }}|",
], d={'a': 1, 'b': 2})

# --- functions
add_all('functions', [
    "{{ raise_exception('boom ' ~ 1) }}",
    "{{ strftime_now('%d %b %Y') }} {{ strftime_now('%Y-%m-%d %H:%M:%S') }} {{ strftime_now('%A %B') }}",
    "{{ dict(a=1, b=2) }} {{ dict({'x': 1}, y=2) }} {{ dict([('a', 1)]) }}",
    "{% set c = cycler('a', 'b') %}{{ c.next() }}{{ c.next() }}{{ c.next() }}{{ c.current }}",
    "{% set j = joiner(', ') %}{{ j() }}a{{ j() }}b{{ j() }}c",
    '{{ range(0) | list }} {{ range(3) | length }} {{ range(5)[2] }}',
    '{{ range(1000000) }}',
    '{{ nosuch() }}',
    '{% set ns = namespace(l=[]) %}{% set ns.l = ns.l + [1] %}{{ ns.l }}',
    '{{ tools is none }} {{ documents is none }} {{ tools is defined }}',
])

# --- syntax errors
add_all('syntax', [
    '{{ 1 +',
    '{{ }}',
    "{{ 'a }}",
    '{% if 1 %',
    '{# a',
    '{{ (1 }}',
    '{{ 1) }}',
    '{{ [1, }}',
    '{{ a b }}',
    '{{ | upper }}',
    '{{ 1 | }}',
    '{{ a.  }}',
    '{{ a[ }}',
    '{% for %}{% endfor %}',
    '{% for i %}{% endfor %}',
    '{% macro %}{% endmacro %}',
    '{{ f(a=1, 2) }}',
    '{{ 1 ! 2 }}',
    "{{ 'a' is }}",
    '{{ not }}',
    '{% set 1 = 2 %}',
    '{% set a.b.c = 2 %}',
    '{{ {1 2} }}',
    '{{ a ? b }}',
    '{% if 1 %}a{% elif %}b{% endif %}',
    '{% call 5 %}{% endcall %}',
    '{{ @ }}',
    "{% include 'x' %}",
    "{% extends 'x' %}",
    "{% import 'x' as y %}",
    '{{ x = 1 }}',
    '{{ 1 if }}',
    '{%%}',
])

# --- chat templates of models
TEMPLATES = {file: open(file, encoding="utf-8", newline="").read()
             for file in (f"{model}_chat_template.jinja" for model in ("smollm2", "llama3", "qwen3", "gemma3"))}
TOOLS = [{'type': 'function',
  'function': {'name': 'get_weather',
               'description': 'Wetter für eine Stadt',
               'parameters': {'type': 'object',
                              'properties': {'city': {'type': 'string'},
                                             'days': {'type': 'integer', 'default': 3}},
                              'required': ['city']}}}]
CHATS = {'one turn': [{'role': 'user', 'content': 'Hi there'}],
 'system': [{'role': 'system', 'content': 'Be brief.'}, {'role': 'user', 'content': '  What is 2+2?\n'}],
 'turns': [{'role': 'user', 'content': 'a'},
           {'role': 'assistant', 'content': 'b'},
           {'role': 'user', 'content': 'ç 😀 {{ x }}'}],
 'system turns': [{'role': 'system', 'content': 'S'},
                  {'role': 'user', 'content': 'a'},
                  {'role': 'assistant', 'content': 'b'},
                  {'role': 'user', 'content': 'c'}],
 'thinking': [{'role': 'user', 'content': 'a'},
              {'role': 'assistant', 'content': '<think>\nhmm\n</think>\n\nb'},
              {'role': 'user', 'content': 'c'},
              {'role': 'assistant', 'content': '<think>\nmore\n</think>\n\nd'}],
 'reasoning': [{'role': 'user', 'content': 'a'},
               {'role': 'assistant', 'content': 'b', 'reasoning_content': 'why'}],
 'wrong order': [{'role': 'assistant', 'content': 'a'}, {'role': 'user', 'content': 'b'}],
 'parts': [{'role': 'user',
            'content': [{'type': 'text', 'text': ' look '},
                        {'type': 'image'},
                        {'type': 'text', 'text': 'there'}]}],
 'number': [{'role': 'user', 'content': 5}],
 'tool call': [{'role': 'user', 'content': 'weather?'},
               {'role': 'assistant',
                'content': '',
                'tool_calls': [{'type': 'function',
                                'function': {'name': 'get_weather', 'arguments': {'city': 'Zürich'}}}]},
               {'role': 'tool', 'content': '{"t": 5}'},
               {'role': 'tool', 'content': 'x'},
               {'role': 'user', 'content': 'thanks'}],
 'empty': []}
for file, template in TEMPLATES.items():
    model = file.split("_")[0]
    for chat, messages in CHATS.items():
        for prompt in (True, False):
            add(f"{model} {chat} {prompt}", template, file, messages=messages, add_generation_prompt=prompt,
                bos_token="<bos>", eos_token="<eos>")
    add(f"{model} tools", template, file, messages=CHATS["tool call"], tools=TOOLS, bos_token="<bos>")
    add(f"{model} no thinking", template, file, messages=CHATS["system"], enable_thinking=False, bos_token="<bos>")

with open("jinja_cases.json", "w", encoding="utf-8") as out:
    out.write("[\n" + ",\n".join(json.dumps(case, ensure_ascii=False) for case in cases) + "\n]\n")
print(len(cases), "cases,", sum("error" in case for case in cases), "of them errors")
