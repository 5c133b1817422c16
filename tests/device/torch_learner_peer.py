"""The peer of `troupe bench learner`: one training step after the other in PyTorch, with transformers' own network.

Reads one JSON document (config, lengths of prompts and answers, steps, micro_batch, device, dtype, recompute, lora) from stdin and prints one
on its last line. SDPA attention, fused AdamW, weights in `dtype` as usual for such a comparison; sequences of a pass are padded on
the right to the longest of it (sorted by length, which is to its favour), answers alone are learned from.
"""

import json
import os
import sys
import time

import torch
import transformers


def since_start():
    with open("/proc/self/stat") as f:
        ticks = float(f.read().rsplit(")", 1)[1].split()[19])
    with open("/proc/uptime") as f:
        return float(f.read().split()[0]) - ticks / os.sysconf("SC_CLK_TCK")


def network(c, dtype, device):
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
        use_cache=False,
        attn_implementation="sdpa",
    )
    kind = {"llama": transformers.LlamaConfig, "qwen2": transformers.Qwen2Config, "qwen3": transformers.Qwen3Config}
    config = kind[c["family"]](**shared)
    if hasattr(config, "rope_parameters"):
        config.rope_parameters = {"rope_type": "default", "rope_theta": c["rope_theta"]}
    else:
        config.rope_theta = c["rope_theta"]
    torch.set_default_dtype(dtype)
    with torch.device(device):
        model = transformers.AutoModelForCausalLM.from_config(config)
    torch.set_default_dtype(torch.float32)
    return model.to(device=device, dtype=dtype).train()


class Adapted(torch.nn.Module):
    """A linear layer that stays as it is, with an adapter beside it, as PEFT computes it."""

    def __init__(self, linear, rank):
        super().__init__()
        self.linear, self.scale = linear, 2.0
        like = dict(device=linear.weight.device, dtype=linear.weight.dtype)
        self.a = torch.nn.Parameter(torch.randn(rank, linear.in_features, **like) / linear.in_features**0.5)
        self.b = torch.nn.Parameter(torch.zeros(linear.out_features, rank, **like))

    def forward(self, x):
        down = torch.nn.functional.linear(x, self.a)
        return self.linear(x) + self.scale * torch.nn.functional.linear(down, self.b)


def adapt(model, rank):
    for value in model.parameters():
        value.requires_grad_(False)
    for layer in model.model.layers:
        for part in (layer.self_attn, layer.mlp):
            for name, linear in list(part.named_children()):
                if isinstance(linear, torch.nn.Linear):
                    setattr(part, name, Adapted(linear, rank))


def main():
    wanted = json.load(sys.stdin)
    device, dtype = wanted["device"], getattr(torch, wanted["dtype"])
    torch.manual_seed(1)
    model = network(wanted["config"], dtype, device)
    if wanted.get("lora"):
        adapt(model, wanted["lora"])
        model.enable_input_require_grads()
    if wanted.get("recompute"):
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    trained = [value for value in model.parameters() if value.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    vocab = wanted["config"]["vocab_size"]
    lengths = [tuple(pair) for pair in wanted["lengths"]]
    order = sorted(lengths, key=lambda pair: -sum(pair))
    passes = []
    learned = sum(answer for _, answer in lengths)
    for first in range(0, len(order), wanted["micro_batch"]):
        some = order[first : first + wanted["micro_batch"]]
        longest = max(map(sum, some))
        tokens = torch.randint(2, vocab, (len(some), longest), device=device)
        labels, mask = tokens.clone(), torch.ones_like(tokens)
        for row, (prompt, answer) in enumerate(some):
            labels[row, :prompt] = -100
            labels[row, prompt + answer :] = -100
            mask[row, prompt + answer :] = 0
        # Without padding no mask: SDPA's causal kernel.
        passes.append((tokens, labels, None if bool(mask.all()) else mask))

    def wait():
        if device == "cuda":
            torch.cuda.synchronize()

    def step():
        optimizer.zero_grad(set_to_none=True)
        for tokens, labels, mask in passes:
            out = model(input_ids=tokens, attention_mask=mask, labels=labels, num_items_in_batch=learned)
            out.loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()

    step()
    wait()
    first_step_s = since_start()
    for _ in range(2):
        step()
    wait()
    step_ms = []
    for _ in range(max(1, wanted["steps"])):
        started = time.perf_counter()
        step()
        wait()
        step_ms.append((time.perf_counter() - started) * 1e3)
    median = sorted(step_ms)[len(step_ms) // 2]
    print(
        json.dumps(
            dict(
                name=f"PyTorch {torch.__version__}, transformers {transformers.__version__}, {wanted['dtype']}",
                first_step_s=first_step_s,
                step_ms=step_ms,
                median_ms=median,
                tokens_per_s=sum(map(sum, lengths)) / median * 1e3,
                device_gib=torch.cuda.max_memory_reserved() / 2**30 if device == "cuda" else 0.0,
            )
        )
    )


main()
