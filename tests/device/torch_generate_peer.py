"""A peer of `troupe bench generator --peer-python`: `transformers.generate` on random weights of the same shape, in bf16.

    torch_generate_peer.py SHAPE BATCH PROMPT_TOKENS NEW_TOKENS

SHAPE is the shape as JSON, in the words of the model's configuration. One JSON line: batch, seconds and tokens_per_s of the
second of two calls (the first is short), versions.
"""
import json
import sys
import time

import torch
import transformers


def config(shape):
    common = dict(
        vocab_size=shape["vocab_size"],
        hidden_size=shape["hidden_size"],
        intermediate_size=shape["intermediate_size"],
        num_hidden_layers=shape["num_layers"],
        num_attention_heads=shape["num_heads"],
        num_key_value_heads=shape["num_kv_heads"],
        head_dim=shape["head_dim"],
        rms_norm_eps=shape["rms_norm_eps"],
        rope_parameters={"rope_type": "default", "rope_theta": shape["rope_theta"]},
        max_position_embeddings=shape["max_position_embeddings"],
        tie_word_embeddings=shape["tie_word_embeddings"],
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    kinds = {"qwen3": "Qwen3Config", "qwen2": "Qwen2Config", "llama": "LlamaConfig"}
    return getattr(transformers, kinds[shape["family"]])(**common)


def main():
    shape = json.loads(sys.argv[1])
    batch, prompt, new = (int(a) for a in sys.argv[2:5])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    with torch.device(device):
        model = transformers.AutoModelForCausalLM.from_config(config(shape), dtype=torch.bfloat16).eval()
    tokens = torch.randint(0, shape["vocab_size"], (batch, prompt), device=device)

    def generate(count):
        if device == "cuda":
            torch.cuda.synchronize()
        began = time.perf_counter()
        out = model.generate(tokens, attention_mask=torch.ones_like(tokens), do_sample=True, top_k=0, max_new_tokens=count, min_new_tokens=count)
        if device == "cuda":
            torch.cuda.synchronize()
        assert out.shape == (batch, prompt + count), out.shape
        return time.perf_counter() - began

    generate(8)
    seconds = generate(new)
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}, {device}"
    print(json.dumps({"batch": batch, "seconds": seconds, "tokens_per_s": batch * new / seconds, "versions": versions}))


if __name__ == "__main__":
    main()
