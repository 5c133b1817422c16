"""Makes model/tests/fixtures: tiny random checkpoints of every family with the logits that transformers computes from them.

    python scripts/make_model_fixtures.py make model/tests/fixtures     # needs torch, transformers, tokenizers
    python scripts/make_model_fixtures.py check DIR                     # prints logits of a folder that `save_hf` wrote
    python scripts/make_model_fixtures.py reference DIR                 # prints logits of a chat with a published model

Made with torch 2.11.0 and transformers 5.23.0. The same versions make the same files.
"""

import json
import pathlib
import shutil
import sys

import torch
import transformers
from transformers import (
    LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM, Qwen3Config,
    Qwen3ForCausalLM,
)

VOCAB = 40
# Linear, llama3 and yarn turn every position by scaled angles, so their scaling shows at any length. Dynamic scaling begins
# beyond max_position_embeddings, where texts are refused: its case is the plain rotation, and says no more than that.
LENGTH = 24

SIZES = dict(
    vocab_size=VOCAB, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, head_dim=8, max_position_embeddings=64, eos_token_id=1, bos_token_id=0, pad_token_id=None,
)

FAMILIES = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
}

# name -> family, config changes, dtype on disk, shard size
CASES = {
    "llama-untied": ("llama", dict(tie_word_embeddings=False), torch.float32, None),
    "llama-bias-tied": ("llama", dict(tie_word_embeddings=True, attention_bias=True, mlp_bias=True), torch.bfloat16, None),
    "llama-linear": ("llama", dict(rope_scaling=dict(rope_type="linear", factor=4.0)), torch.bfloat16, None),
    "llama-dynamic-plain": ("llama", dict(rope_scaling=dict(rope_type="dynamic", factor=2.0)), torch.bfloat16, None),
    "llama-llama3": ("llama", dict(rope_theta=500.0, rope_scaling=dict(
        rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
        original_max_position_embeddings=16)), torch.bfloat16, None),
    "qwen2-tied": ("qwen2", dict(tie_word_embeddings=True, rope_theta=1e6), torch.float16, None),
    "qwen2-yarn": ("qwen2", dict(tie_word_embeddings=False, rope_theta=1000.0, rope_scaling=dict(
        rope_type="yarn", factor=4.0, original_max_position_embeddings=16, beta_fast=4.0, beta_slow=1.0)),
        torch.bfloat16, None),
    "qwen3-sharded": ("qwen3", dict(tie_word_embeddings=False), torch.float32, "12KB"),
    "qwen3-tied-yarn": ("qwen3", dict(tie_word_embeddings=True, head_dim=12, rope_scaling=dict(
        rope_type="yarn", factor=2.0, original_max_position_embeddings=32)), torch.float32, None),
}

# Written for these tests: each uses things that published templates use.
TEMPLATES = {
    "markers": """{%- for message in messages -%}
    {{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|im_start|>assistant\\n' -}}
{%- endif -%}""",
    "system_first": """{{ bos_token }}
{%- if messages[0].role == 'system' %}
    {%- set system = messages[0].content | trim %}
    {%- set rest = messages[1:] %}
{%- else %}
    {%- set system = 'Be brief.' %}
    {%- set rest = messages %}
{%- endif %}
<<SYS>>{{ system }}<</SYS>>
{% for m in rest %}
    {% if (m.role == 'user') != (loop.index0 % 2 == 0) %}
        {{ raise_exception('roles must alternate') }}
    {% endif %}
    {%- if loop.last and not add_generation_prompt %}[last]{% endif %}
[{{ m.role | upper }}] {{ m['content'].strip() }}{{ eos_token }}
{% endfor %}
{% if add_generation_prompt is defined and add_generation_prompt %}[ASSISTANT]{% endif %}
""",
    "thinking": """{%- set ns = namespace(last=-1, count=0) %}
{%- for m in messages[::-1] %}
    {%- set index = (messages | length - 1) - loop.index0 %}
    {%- if m.role == 'user' and ns.last < 0 %}{%- set ns.last = index %}{%- endif %}
{%- endfor %}
{%- for m in messages %}
    {%- set content = m.content %}
    {%- if m.role == 'assistant' and '</think>' in content and loop.index0 < ns.last %}
        {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
    {%- endif %}
    {%- if content.startswith('#skip') %}{% continue %}{% endif %}
    {%- if content.endswith('#stop') %}{% break %}{% endif %}
    {%- set ns.count = ns.count + 1 %}
    {{- '<' ~ m.role ~ ' ' ~ ns.count ~ '>' ~ content ~ '\\n' }}
{%- endfor %}
{{- ({'n': ns.count, 'names': ['a', 'b<c>'], 'none': none, 'on': true}) | tojson }}
{{- messages[0] | tojson(indent=2) }}
{%- if tools is not none and tools %}tools{% endif %}
{%- macro close(tag) %}</{{ tag }}>{% endmacro %}
{{- close('all') }}""",
    "generation_marks": """{% for m in messages %}
{% if m.role == 'assistant' %}
A:{% generation %} {{ m.content }}{{ eos_token }}
{%- endgeneration %}
{% else %}
{{ m.role[0] | capitalize }}: {{ m.content | replace('a', 'o') }}
{% endif %}
{% endfor %}""",
}

CONVERSATIONS = [
    [dict(role="user", content="Write a kernel.")],
    [dict(role="system", content="  You write Triton.\n"), dict(role="user", content="add\n\n  two \"vectors\" "),
     dict(role="assistant", content="<think>plan\n</think>\n\ncode é \u4e2d"), dict(role="user", content="again")],
    [dict(role="user", content="one"), dict(role="user", content="two")],
    [dict(role="user", content="x"), dict(role="assistant", content="#skip this"), dict(role="user", content="y #stop")],
]


def fill(model, seed):
    """Weights large enough that every part of the network shows in the logits."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + 0.3 * noise if "norm" in name else 0.35 * noise)


def make_case(root, name, seed):
    family, changes, dtype, shard = CASES[name]
    config_class, model_class = FAMILIES[family]
    folder = root / name
    model = model_class(config_class(**{**SIZES, **changes}))
    fill(model, seed)
    model.to(dtype).save_pretrained(folder, **({} if shard is None else dict(max_shard_size=shard)))
    model = model_class.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    tokens = torch.randint(0, VOCAB, (2, LENGTH), generator=torch.Generator().manual_seed(seed + 1))
    with torch.no_grad():
        logits = model(tokens).logits
    following = logits.log_softmax(-1)[:, :-1].gather(-1, tokens[:, 1:, None])[..., 0]
    # Every third position and the last: enough to see a difference, small enough to commit.
    shown = sorted({*range(0, LENGTH, 3), LENGTH - 1})
    expected = dict(
        transformers=transformers.__version__, tokens=tokens.tolist(), shown=shown,
        logits=[[round(x, 5) for x in row] for row in logits[:, shown].reshape(-1, VOCAB).tolist()],
        following_logprobs=[[round(x, 5) for x in row] for row in following.tolist()],
    )
    (folder / "expected.json").write_text(json.dumps(expected))
    for extra in ("generation_config.json", ".gitattributes"):
        (folder / extra).unlink(missing_ok=True)


def make_chat(root):
    from tokenizers import Tokenizer, models
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({"<s>": 0, "</s>": 1}, unk_token="<s>")), bos_token="<s>", eos_token="</s>")
    cases = []
    for name, template in TEMPLATES.items():
        for conversation in CONVERSATIONS:
            for add in (False, True):
                try:
                    text, error = tokenizer.apply_chat_template(
                        conversation, chat_template=template, tokenize=False, add_generation_prompt=add), None
                except Exception as problem:  # jinja2's TemplateError: the template refused
                    text, error = None, str(problem)
                cases.append(dict(template=name, messages=conversation, add_generation_prompt=add, text=text, error=error))
    payload = dict(transformers=transformers.__version__, templates=TEMPLATES, cases=cases)
    (root / "chat.json").write_text(json.dumps(payload, indent=1))


def check(folder):
    from transformers import AutoModelForCausalLM, AutoTokenizer
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = "def f(x):\n    return x + 1  # é 中\n<think>a</think>"
    tokens = tokenizer(text, add_special_tokens=False).input_ids
    assert tokenizer.decode(tokens) == text, tokenizer.decode(tokens)
    with torch.no_grad():
        logits = model(torch.tensor([tokens])).logits[0, -1]
    print(json.dumps(dict(
        tokens=tokens, logits=logits.tolist(), eos=tokenizer.eos_token, rope=model.config.rope_parameters,
        chat=tokenizer.apply_chat_template([dict(role="user", content="hi")], tokenize=False, add_generation_prompt=True))))


def reference(folder):
    from transformers import AutoModelForCausalLM, AutoTokenizer
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    messages = [dict(role="system", content="You write Triton."),
                dict(role="user", content="def f(x):\n    return x+1  # \u00e9 \u4e2d\u6587 12345")]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    tokens = tokenizer(text, add_special_tokens=False).input_ids
    with torch.no_grad():
        logits = model(torch.tensor([tokens])).logits[0, -1]
    print(json.dumps(dict(messages=messages, text=text, tokens=tokens, logits=logits.tolist())))


def main():
    command, target = sys.argv[1], pathlib.Path(sys.argv[2])
    if command == "reference":
        return reference(target)
    if command == "check":
        return check(target)
    target.mkdir(parents=True, exist_ok=True)
    for index, name in enumerate(CASES):
        shutil.rmtree(target / name, ignore_errors=True)
        make_case(target, name, 100 * index)
    make_chat(target)


if __name__ == "__main__":
    main()
