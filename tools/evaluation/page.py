"""The HTML page of an evaluation, as a Jinja2 template; `tools.evaluation.show.html` fills it, escaping everything."""

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{{ comparison.run }}</title>
<style>
:root { color-scheme: light dark; --ink: #1d2430; --soft: #5b6472; --paper: #fff; --line: #dfe3e8; --good: #1f7a46;
  --bad: #b3261e; --plot: #fff; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ee; --soft: #9aa3b0; --paper: #14171c; --line: #2c323b;
  --good: #5fc48a; --bad: #ff8a80; --plot: #f4f5f7; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 68rem;
  margin: 2rem auto; padding: 0 1rem; }
h1 { margin: 0; font-size: 1.6rem; } h2 { margin: 2rem 0 .5rem; font-size: 1.1rem; }
figure { margin: 1rem 0; background: var(--plot); border-radius: 8px; padding: .5rem; }
figure svg { width: 100%; height: auto; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; min-width: 60%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid var(--line);
  overflow-wrap: anywhere; }
th { color: var(--soft); font-weight: 600; }
.fixed, .right { color: var(--good); } .broken, .wrong { color: var(--bad); }
.fixed, .broken { font-weight: 700; }
.small { color: var(--soft); font-size: .85rem; }
article { border: 1px solid var(--line); border-radius: 8px; padding: .6rem .9rem; margin: .8rem 0; }
.answers { display: grid; grid-template-columns: repeat(auto-fit, minmax(16rem, 1fr)); gap: 1rem; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; margin: .2rem 0; font-size: .85rem; }
</style>
</head>
<body>
<h1>{{ comparison.run }}</h1>
<p class="small">{{ comparison.suite }}, compared with {{ comparison.against }}</p>
<p>{{ verdict }}</p>
<figure>{{ plot|safe }}</figure>
{% for title, heads, rows in tables %}
<h2>{{ title }}</h2>
<div class="wide"><table>
<tr>{% for head in heads %}<th>{{ head }}</th>{% endfor %}</tr>
{% for row in rows %}
<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}
</table></div>
{% endfor %}
<h2>Samples side by side</h2>
{% for sample in samples %}
<article>
<b>{{ sample.prompt }}</b>
<div class="answers">
{% for label, word, answer in sample.answers %}
<div><span class="{{ word.split(' ')[0] }}">{{ label }}: {{ word }}</span>
<pre>{{ answer.answer }}</pre>
{% if answer.why %}<span class="small">{{ answer.why }}</span>{% endif %}
{% if answer.by == 'rules' and answer.agent_right is not none %}
<span class="small">An agent says: {{ 'right' if answer.agent_right else 'wrong' }}.</span>
{% endif %}
</div>
{% endfor %}
</div>
</article>
{% endfor %}
<h2>Every probe</h2>
<details><summary>{{ probes|length }} probes</summary>
<div class="wide"><table>
<tr><th>probe</th><th>kind</th><th>question</th>
{% for label in comparison.reports %}<th>{{ label }}</th>{% endfor %}</tr>
{% for probe in probes %}
<tr><td>{{ probe.id }}</td><td>{{ probe.kind }}: {{ probe.family }}</td><td>{{ probe.prompt }}</td>
{% for word in probe.cells %}<td class="{{ word.split(' ')[0] }}">{{ word }}</td>{% endfor %}</tr>
{% endfor %}
</table></div>
</details>
</body>
</html>
"""
