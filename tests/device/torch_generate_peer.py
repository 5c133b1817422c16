"""The peer of `troupe bench generator`: `transformers.generate` on random weights of the same shape, in bf16.

    torch_generate_peer.py SHAPE BATCH PROMPT_TOKENS NEW_TOKENS

SHAPE is the network's configuration as JSON, in the words of the model room. Prints one JSON document on its last line: batch,
seconds and tokens_per_s of the second of two calls (the first is short), versions.
"""

import json
import sys
import time

import torch
import transformers


def network(c, device):
    shared = dict(
        vocab_size=c["vocab_size"],
        hidden_size=c["hidden_size"],
        intermediate_size=c["intermediate_size"],
        num_hidden_layers=c["num_layers"],
        num_attention_heads=c["num_heads"],
        num_key_value_heads=c["num_kv_heads"],
        head_dim=c["head_dim"],
        rms_norm_eps=c["rms_norm_eps"],
        tie_word_embeddings=c["tie_word_embeddings"],
        max_position_embeddings=c["max_position_embeddings"],
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
        attn_implementation="sdpa",
    )
    kind = {"llama": transformers.LlamaConfig, "qwen2": transformers.Qwen2Config, "qwen3": transformers.Qwen3Config}
    config = kind[c["family"]](**shared)
    if hasattr(config, "rope_parameters"):
        config.rope_parameters = {"rope_type": "default", "rope_theta": c["rope_theta"]}
    else:
        config.rope_theta = c["rope_theta"]
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(device):
        model = transformers.AutoModelForCausalLM.from_config(config)
    torch.set_default_dtype(torch.float32)
    return model.to(device=device, dtype=torch.bfloat16).eval()


def main():
    shape = json.loads(sys.argv[1])
    batch, prompt, new = (int(a) for a in sys.argv[2:5])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(1)
    model = network(shape, device)
    tokens = torch.randint(0, shape["vocab_size"], (batch, prompt), device=device)
    mask = torch.ones_like(tokens)

    def generate(count):
        if device == "cuda":
            torch.cuda.synchronize()
        started = time.perf_counter()
        out = model.generate(
            tokens, attention_mask=mask, do_sample=True, top_k=0, max_new_tokens=count, min_new_tokens=count
        )
        if device == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - started
        if out.shape != (batch, prompt + count):
            raise SystemExit(f"generated {tuple(out.shape)}, expected {(batch, prompt + count)}")
        return seconds

    generate(8)
    seconds = generate(new)
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}, {device}"
    print(json.dumps(dict(batch=batch, seconds=seconds, tokens_per_s=batch * new / seconds, versions=versions)))


main()
