"""Makes model/tests/fixtures/gguf: blocks of every quantisation and small GGUF models, with what other programs make of them.

    python scripts/make_gguf_fixtures.py make model/tests/fixtures/gguf    # needs gguf, torch, transformers, regex
    python scripts/make_gguf_fixtures.py reference FILE.gguf               # what transformers makes of a published file, as JSON
    python scripts/make_gguf_fixtures.py compare FILE.gguf FOLDER          # logits of a file and of the folder `save_hf` made of it

Files are written and blocks are read by gguf-py; logits are transformers'; tokens come from a byte-pair encoder of a few lines
below, with the expressions of llama.cpp's tokenizers. Made with gguf 0.19.0, torch 2.11.0 and transformers 5.24.0.
"""

import functools
import json
import pathlib
import sys
import unicodedata

import gguf
import numpy as np
import regex
import torch
import transformers
from gguf import GGMLQuantizationType as Q
from transformers import (
    AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM, Qwen3Config,
    Qwen3ForCausalLM,
)

TYPES = [Q.F32, Q.F16, Q.BF16, Q.Q4_0, Q.Q4_1, Q.Q5_0, Q.Q8_0, Q.Q4_K, Q.Q6_K]
LENGTH = 16

TEXTS = [
    "Hello world", "The year 2024, 31.12.: 1234567 items", "  two  spaces\n\n\tand tabs \r\n end", "don't we'll I'M",
    "def f(x):\n    return x + 1  # é 中文 e\u0301 🦀", "x_ptr + offs, mask=mask)\n\n\n", "<|im_start|>user\nhi<|im_end|>", "½ ٣ Ⅷ",
    "@triton.jit\ndef kernel(x_ptr, n, BLOCK: tl.constexpr):\n    pid = tl.program_id(0)\n", " ", "\n", "a\u00a0b\u2028c",
]

CHAT = [dict(role="user", content="Write a kernel."), dict(role="assistant", content="ok"), dict(role="user", content="Now 12!")]

TEMPLATE = """{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}
{%- endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
USER_DEFINED = ["<think>", "</think>"]

# llama.cpp's expressions of each pre-tokenizer: every match, and what lies between matches, is a piece; one after the other.
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
HEAD = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|"
CUTS = {
    "smollm": [r"\p{N}", GPT2],
    "qwen2": [HEAD + r"\p{N}" + TAIL],
    "llama-bpe": [HEAD + r"\p{N}{1,3}" + TAIL],
    "gpt-2": [GPT2],
}


@functools.cache
def byte_alphabet():
    own = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in own]
    return {**{b: chr(b) for b in own}, **{b: chr(256 + i) for i, b in enumerate(others)}}


class Encoder:
    """Byte-level BPE as GPT-2 defined it."""

    def __init__(self, pre, tokens, kinds, merges):
        self.ids = {token: i for i, token in enumerate(tokens)}
        self.ranks = {tuple(merge.split(" ")): i for i, merge in enumerate(merges)}
        added = sorted((t for t, kind in zip(tokens, kinds) if kind in (3, 4)), key=len, reverse=True)
        self.added = regex.compile("(" + "|".join(regex.escape(t) for t in added) + ")")
        self.pre, self.cuts = pre, [regex.compile(cut) for cut in CUTS[pre]]

    def encode(self, text):
        ids = []
        for i, part in enumerate(self.added.split(text)):
            if i % 2:
                ids.append(self.ids[part])
                continue
            pieces = [unicodedata.normalize("NFC", part) if self.pre == "qwen2" else part]
            for cut in self.cuts:
                pieces = [piece for text in pieces for piece in self.cut(cut, text)]
            for piece in pieces:
                ids += self.merge("".join(byte_alphabet()[b] for b in piece.encode()))
        return ids

    @staticmethod
    def cut(pattern, text):
        out, end = [], 0
        for match in pattern.finditer(text):
            out += [text[end:match.start()], match.group()]
            end = match.end()
        return [piece for piece in [*out, text[end:]] if piece]

    def merge(self, word):
        # Llama 3 takes a whole piece that is a token before it tries merges.
        if self.pre == "llama-bpe" and word in self.ids:
            return [self.ids[word]]
        parts = list(word)
        while len(parts) > 1:
            rank, at = min((self.ranks.get(pair, 1 << 30), i) for i, pair in enumerate(zip(parts, parts[1:])))
            if rank == 1 << 30:
                break
            parts[at:at + 2] = [parts[at] + parts[at + 1]]
        return [self.ids[part] for part in parts]


def vocabulary():
    """Special tokens, all bytes, and merges counted from the texts in the plainest way."""
    merges, words = [], [[byte_alphabet()[b] for b in word.encode()] for text in TEXTS for word in regex.findall(GPT2, text)]
    for _ in range(40):
        counts = {}
        for word in words:
            for pair in zip(word, word[1:]):
                counts[pair] = counts.get(pair, 0) + 1
        best = max(counts, key=lambda pair: (counts[pair], pair))
        merges.append(" ".join(best))
        for word in words:
            i = 0
            while i + 1 < len(word):
                if (word[i], word[i + 1]) == best:
                    word[i:i + 2] = ["".join(best)]
                i += 1
    # A token that no merge makes: only a whole piece gives it, and only where the pre-tokenizer says so.
    plain = [*byte_alphabet().values(), *(merge.replace(" ", "") for merge in merges), "Ġend"]
    tokens = [*SPECIAL, *plain, *USER_DEFINED]
    kinds = [3] * len(SPECIAL) + [1] * len(plain) + [4] * len(USER_DEFINED)
    return tokens, kinds, merges


def random_blocks(kind, shape, generator):
    """Raw bytes of a tensor: quantised noise, or for types that gguf-py only reads, noise as quants under sensible scales."""
    rows, row = shape
    noise = generator.normal(0, 0.35, shape).astype(np.float32)
    if kind not in (Q.Q4_K, Q.Q6_K):
        return gguf.quants.quantize(noise, kind)
    size = gguf.GGML_QUANT_SIZES[kind][1]
    raw = generator.integers(0, 256, (rows, row // 256, size), dtype=np.uint8)
    half = lambda value: np.frombuffer(np.float16(value).tobytes(), np.uint8)
    if kind == Q.Q4_K:
        raw[..., 0:2], raw[..., 2:4] = half(0.0012), half(0.009)
    else:
        raw[..., 208:210] = half(0.0003)
    return raw.reshape(rows, -1)


def make_blocks(root):
    generator, out = np.random.default_rng(5), {}
    for kind in TYPES:
        raw = random_blocks(kind, (2, 256 if kind in (Q.Q4_K, Q.Q6_K) else 64), generator)
        values = gguf.quants.dequantize(raw, kind).reshape(-1)
        # Python prints the shortest decimal that gives the same f64, so that f32 values come back bit for bit.
        out[kind.name] = dict(bytes=raw.tobytes().hex(), values=[float(x) for x in values])
    (root / "blocks.json").write_text(json.dumps(out))


def unpermute(w, heads):
    """The inverse of `LlamaModel.permute` in llama.cpp's converter."""
    out = w.reshape(heads, w.shape[0] // heads // 2, 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)
    again = out.reshape(heads, 2, w.shape[0] // heads // 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)
    assert (again == w).all()
    return out


PARTS = {
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj", "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm", "attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm",
}

# name -> architecture, pre-tokenizer, hidden size, layers, head size, tied, types of the projections
MODELS = {
    "llama-mixed": ("llama", "smollm", 256, 1, 16, True, dict(
        token_embd=Q.Q8_0, attn_q=Q.Q4_K, attn_k=Q.Q6_K, attn_v=Q.Q5_0, attn_output=Q.Q4_0, ffn_gate=Q.Q4_1, ffn_up=Q.Q6_K,
        ffn_down=Q.BF16)),
    "llama3-rope": ("llama", "llama-bpe", 32, 2, 16, False, dict(default=Q.Q8_0, output=Q.F16)),
    "qwen2": ("qwen2", "qwen2", 32, 2, 16, True, dict(default=Q.Q8_0, attn_v=Q.F16)),
    "qwen3": ("qwen3", "qwen2", 32, 2, 32, False, dict(default=Q.Q5_0, ffn_up=Q.F32)),
}
HEADS, KV_HEADS, FF = 2, 1, 32


def make_model(root, name, seed):
    arch, pre, hidden, layers, head, tied, kinds = MODELS[name]
    generator = np.random.default_rng(seed)
    tokens, token_kinds, merges = vocabulary()
    path = root / f"{name}.gguf"
    writer = gguf.GGUFWriter(path, arch)
    writer.add_block_count(layers)
    writer.add_context_length(16384)
    writer.add_embedding_length(hidden)
    writer.add_feed_forward_length(FF)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(500.0)
    writer.add_key_length(head)
    writer.add_value_length(head)
    if arch == "llama":
        writer.add_rope_dimension_count(head)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types(token_kinds)
    writer.add_token_merges(merges)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(0)
    writer.add_chat_template(TEMPLATE)

    state = {}

    def put(own, theirs, shape, kind):
        if len(shape) == 1:
            mean = 1.0 if "norm" in own else 0.0
            value = (mean + 0.3 * generator.normal(0, 1, shape)).astype(np.float32)
            writer.add_tensor(own, value)
        else:
            raw = random_blocks(kind, shape, generator)
            value = np.array(gguf.quants.dequantize(raw, kind)).astype(np.float32).reshape(shape)
            writer.add_tensor(own, raw, raw_dtype=kind)
        if arch == "llama" and (".attn_q." in own or ".attn_k." in own):
            value = unpermute(value, HEADS if "attn_q" in own else KV_HEADS)
        state[theirs] = torch.from_numpy(np.ascontiguousarray(value))

    kind = lambda part: kinds.get(part, kinds.get("default"))
    put("token_embd.weight", "model.embed_tokens.weight", (len(tokens), hidden), kind("token_embd"))
    put("output_norm.weight", "model.norm.weight", (hidden,), None)
    if not tied:
        put("output.weight", "lm_head.weight", (len(tokens), hidden), kind("output"))
    q, kv = HEADS * head, KV_HEADS * head
    shapes = dict(attn_q=(q, hidden), attn_k=(kv, hidden), attn_v=(kv, hidden), attn_output=(hidden, q), ffn_gate=(FF, hidden),
                  ffn_up=(FF, hidden), ffn_down=(hidden, FF), attn_norm=(hidden,), ffn_norm=(hidden,))
    if arch == "qwen3":
        shapes.update(attn_q_norm=(head,), attn_k_norm=(head,))
    for layer in range(layers):
        for part, shape in shapes.items():
            put(f"blk.{layer}.{part}.weight", f"model.layers.{layer}.{PARTS[part]}.weight", shape, kind(part))
            if arch == "qwen2" and part in ("attn_q", "attn_k", "attn_v"):
                put(f"blk.{layer}.{part}.bias", f"model.layers.{layer}.{PARTS[part]}.bias", shape[:1], None)
    rope = dict(rope_type="default", rope_theta=500.0)
    if name == "llama3-rope":
        rope = dict(rope_type="llama3", rope_theta=500.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                    original_max_position_embeddings=8192)
        writer.add_tensor("rope_freqs.weight", llama3_factors(head, rope))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    config_class, model_class = dict(
        llama=(LlamaConfig, LlamaForCausalLM), qwen2=(Qwen2Config, Qwen2ForCausalLM), qwen3=(Qwen3Config, Qwen3ForCausalLM))[arch]
    config = config_class(
        vocab_size=len(tokens), hidden_size=hidden, intermediate_size=FF, num_hidden_layers=layers, num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS, head_dim=head, max_position_embeddings=16384, rms_norm_eps=1e-5, rope_parameters=rope,
        tie_word_embeddings=tied, attn_implementation="eager")
    model = model_class(config).eval()
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected and set(missing) <= ({"lm_head.weight"} if tied else set()), (missing, unexpected)
    rows = torch.from_numpy(np.random.default_rng(seed + 1).integers(0, len(tokens), (1, LENGTH)))
    with torch.no_grad():
        logits = model(rows).logits[0]
    # transformers' own loader reads neither the factors of Llama 3 nor the head size of a small qwen3.
    if name not in ("llama3-rope", "qwen3"):
        theirs = AutoModelForCausalLM.from_pretrained(root, gguf_file=path.name, dtype=torch.float32, attn_implementation="eager")
        with torch.no_grad():
            gap = (theirs.eval()(rows).logits[0] - logits).abs().max().item()
        print(f"{name}: transformers' own GGUF loader differs by {gap:.2e}")
        assert gap < 1e-4, gap
    encoder = Encoder(pre, tokens, token_kinds, merges)
    shown = [0, LENGTH // 2, LENGTH - 1]
    chat = render(TEMPLATE, CHAT)
    expected = dict(
        transformers=transformers.__version__, gguf="0.19.0", tokens=rows[0].tolist(), shown=shown,
        logits=[[round(x, 5) for x in row] for row in logits[shown].tolist()],
        texts=[[text, encoder.encode(text)] for text in TEXTS], messages=CHAT, chat=chat)
    (root / f"{name}.json").write_text(json.dumps(expected))


def render(template, messages):
    from tokenizers import Tokenizer, models
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, unk_token="a")))
    return tokenizer.apply_chat_template(messages, chat_template=template, tokenize=False, add_generation_prompt=True)


def llama3_factors(head, rope):
    """As llama.cpp's converter makes them."""
    factors = []
    for i in range(head // 2):
        length = 2 * np.pi * rope["rope_theta"] ** (2 * i / head)
        low, high, window = rope["low_freq_factor"], rope["high_freq_factor"], rope["original_max_position_embeddings"]
        if length < window / high:
            factors.append(1.0)
        elif length > window / low:
            factors.append(rope["factor"])
        else:
            smooth = (window / length - low) / (high - low)
            factors.append(1 / ((1 - smooth) / rope["factor"] + smooth))
    return np.array(factors, dtype=np.float32)


def read_metadata(path):
    fields = {field.name: field.contents() for field in gguf.GGUFReader(path).fields.values()}
    return fields, Encoder(fields["tokenizer.ggml.pre"], *(fields[f"tokenizer.ggml.{k}"] for k in ("tokens", "token_type", "merges")))


def reference(path):
    fields, encoder = read_metadata(path)
    model = AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32, attn_implementation="eager").eval()
    chat = render(fields["tokenizer.chat_template"], CHAT)
    question = render(fields["tokenizer.chat_template"], [dict(role="user", content="What is the capital of France?")])
    with torch.no_grad():
        logits = model(torch.tensor([encoder.encode(chat)])).logits[0]
        answer = model.generate(torch.tensor([encoder.encode(question)]), max_new_tokens=24, do_sample=False)[0]
    shown = [0, len(logits) // 2, len(logits) - 1]
    # Every 64th logit: enough to see a difference, small enough to commit.
    print(json.dumps(dict(
        transformers=transformers.__version__, torch=torch.__version__, gguf="0.19.0", messages=CHAT, chat=chat,
        tokens=encoder.encode(chat), shown=shown, stride=64, logits=[[round(x, 6) for x in row[::64]] for row in logits[shown].tolist()],
        texts=[[text, encoder.encode(text)] for text in TEXTS], question=question, answer=answer.tolist())))


def compare(path, folder):
    """Two loaders of the same weights, over a few texts."""
    fields, encoder = read_metadata(path)
    options = dict(dtype=torch.float32, attn_implementation="eager")
    theirs = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, **options).eval()
    ours = AutoModelForCausalLM.from_pretrained(folder, **options).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    own = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    print(f"python: torch {torch.__version__}, transformers {transformers.__version__}, gguf 0.19.0")
    state = theirs.state_dict()
    same = sum(torch.equal(value, state[name]) for name, value in ours.state_dict().items())
    print(f"weights of the folder equal to transformers' own GGUF loader's, bit for bit: {same} of {len(state)} tensors")
    chat = tokenizer.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True)
    assert chat == render(fields["tokenizer.chat_template"], CHAT)
    for text in [*TEXTS, chat]:
        ids = tokenizer(text, add_special_tokens=False).input_ids
        with torch.no_grad():
            a, b = (model(torch.tensor([ids])).logits[0] for model in (ours, theirs))
        gap = ((a - b).abs() / (1 + b.abs())).max().item()
        also = own(text, add_special_tokens=False).input_ids == ids
        print(f"{text[:24]!r:34} {len(ids):3} tokens, like the encoder above: {ids == encoder.encode(text)}, like transformers' own "
              f"GGUF tokenizer: {also}; logits differ by {gap:.1e}")


def main():
    command, target = sys.argv[1], pathlib.Path(sys.argv[2])
    if command == "reference":
        return reference(target)
    if command == "compare":
        return compare(target, pathlib.Path(sys.argv[3]))
    target.mkdir(parents=True, exist_ok=True)
    make_blocks(target)
    for index, name in enumerate(MODELS):
        make_model(target, name, 100 * index)


if __name__ == "__main__":
    main()
