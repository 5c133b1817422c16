"""What transformers computes of some batches, for `model/tests/peer`: log-probs, loss and every gradient, in fp64, bf16 and, of the first, fp32.

    python tests/device/torch_parity_peer.py OUT [--only CASE,..] [NAME=MODEL ...]

Writes OUT/<case>/ for random Qwen2 and Qwen3 networks (config.json, model.safetensors; cases `qwen2-random`, `qwen3-random`) and for
each published model, a folder or a GGUF file (which transformers reads with the package gguf), a note of where it is (cases NAME with
random tokens, NAME-text with the text of this folder's programs), each with `reference-<n>.safetensors`, one a batch. On a GPU where
there is one; fp32 is IEEE fp32 there, not TF32. In fp64 only the rotary angles are transformers' fp32 ones.
"""

import copy
import functools
import pathlib
import sys
import types

import torch
import transformers
from safetensors.torch import save_file

ROWS, LENGTH, PROMPT = 4, 300, 32
# Errors in bf16 are rounding's: of one batch, PyTorch's can be small by luck. They are taken over this many.
BATCHES = 8
SIZES = dict(
    vocab_size=4096, hidden_size=256, intermediate_size=640, num_hidden_layers=4, num_attention_heads=8,
    num_key_value_heads=2, max_position_embeddings=1024, tie_word_embeddings=True, eos_token_id=1, bos_token_id=0,
)
KINDS = {
    "qwen2-random": (transformers.Qwen2Config, transformers.Qwen2ForCausalLM, {}),
    "qwen3-random": (transformers.Qwen3Config, transformers.Qwen3ForCausalLM, dict(head_dim=64)),
}


def random_folder(out, config, network, changes):
    torch.manual_seed(7)
    model = network(config(**SIZES, **changes))
    with torch.no_grad():
        # As they come, norms are ones, biases zeros and logits nearly equal: errors would not show.
        for name, value in model.named_parameters():
            if value.dim() == 1:
                value.copy_(torch.randn_like(value) * 0.2 + (0.0 if "bias" in name else 1.0))
            else:
                value.mul_(2.5)
    model.save_pretrained(out)
    return out


def exact_norms(model):
    """transformers takes norms in fp32 whatever the model's type."""

    def forward(self, x):
        return self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)

    for module in model.modules():
        if type(module).__name__.endswith("RMSNorm"):
            module.forward = types.MethodType(forward, module)


def place(model):
    """What transformers' `from_pretrained` is told of a folder or a GGUF file."""
    return (str(model.parent), {"gguf_file": model.name}) if model.suffix == ".gguf" else (str(model), {})


@functools.lru_cache(maxsize=1)
def loaded(where):
    """Once a model: to unpack a GGUF file takes seconds."""
    folder, file = place(where)
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa", **file)


def compute(where, dtype, device, tokens):
    model = copy.deepcopy(loaded(where)).to(device=device, dtype=dtype).train()
    if dtype == torch.float64:
        exact_norms(model)
    logits = model(tokens, use_cache=False).logits[:, PROMPT - 1 : -1]
    logits = logits if dtype == torch.float64 else logits.float()
    chosen = torch.log_softmax(logits, -1).gather(-1, tokens[:, PROMPT:, None])[..., 0]
    loss = -chosen.mean()
    loss.backward()
    found = {"grad." + name: value.grad.float().cpu().contiguous() for name, value in model.named_parameters()}
    found["logprobs"] = chosen.detach().float().cpu().contiguous()
    found["loss"] = loss.detach().float().cpu().reshape(1)
    return found


def main():
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    device = "cuda" if torch.cuda.is_available() else "cpu"
    out, pairs, only = pathlib.Path(sys.argv[1]), sys.argv[2:], None
    if pairs[:1] == ["--only"]:
        only, pairs = pairs[1].split(","), pairs[2:]
    cases = {}
    for name, parts in KINDS.items():
        if only is None or name in only:
            cases[name] = random_folder(out / name, *parts)
    for pair in pairs:
        name, model = pair.split("=", 1)
        for kind in (name, name + "-text"):
            if only is not None and kind not in only:
                continue
            (out / kind).mkdir(parents=True, exist_ok=True)
            (out / kind / "folder.txt").write_text(model)
            cases[kind] = pathlib.Path(model)
    for name, model in cases.items():
        folder, file = place(model)
        vocab = transformers.AutoConfig.from_pretrained(folder, **file).vocab_size
        torch.manual_seed(3)
        tokens = torch.randint(2, vocab, (BATCHES, ROWS, LENGTH))
        if name.endswith("-text"):
            # The scripts, then the tasks and candidates below them.
            here = pathlib.Path(__file__).parent
            programs = sorted(here.glob("*.py")) + sorted(here.glob("*/*.py"))
            text = transformers.AutoTokenizer.from_pretrained(folder, **file)("".join(p.read_text() for p in programs))["input_ids"]
            if len(text) < tokens.numel():
                sys.exit(f"{here}: its programs are {len(text)} tokens, {tokens.numel()} are needed")
            tokens = torch.tensor(text[: tokens.numel()]).reshape(tokens.shape)
        for n, batch in enumerate(tokens):
            found = {}
            for kind, dtype in (("fp64", torch.float64), ("bf16", torch.bfloat16), ("fp32", torch.float32))[: 2 if n else 3]:
                found |= {f"{kind}.{key}": value for key, value in compute(model, dtype, device, batch.to(device)).items()}
            found["tokens"] = batch.to(torch.float32).contiguous()
            found["prompt"] = torch.tensor([float(PROMPT)])
            save_file(found, out / name / f"reference-{n}.safetensors")
        print(f"{name}: loss {found['fp64.loss'].item():.6f} on {device}, torch {torch.__version__}, transformers {transformers.__version__}")


main()
