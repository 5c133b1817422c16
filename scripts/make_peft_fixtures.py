"""Makes model/tests/fixtures/peft: LoRA adapters that PEFT wrote, with PEFT's logits and PyTorch's gradients of A and B.

    python scripts/make_peft_fixtures.py make model/tests/fixtures    # needs torch, transformers, peft
    python scripts/make_peft_fixtures.py check DIR                    # what Troupe wrote, read by PEFT and transformers

`check` takes the folder that `OUT=DIR cargo test --release -p model --test lora -- --ignored folders_for_peft` wrote, compares PEFT's
logits of `adapter` and transformers' of `merged` with Troupe's own, and writes PEFT's beside them.

Made with torch 2.11.0, transformers 5.23.0 and peft 0.21.2. The bases are those of scripts/make_model_fixtures.py.
"""

import json
import pathlib
import shutil
import sys

import peft
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

VOCAB, LENGTH, PROMPT = 40, 24, 3

# name -> base, settings
CASES = {
    "qwen3-all": ("qwen3-sharded", dict(r=4, lora_alpha=8, target_modules="all-linear")),
    "llama-qv-rslora": ("llama-untied", dict(r=2, lora_alpha=3, target_modules=["q_proj", "v_proj"], use_rslora=True)),
    "qwen2-some": ("qwen2-tied", dict(
        r=3, lora_alpha=12, target_modules=["k_proj", "o_proj", "gate_proj", "down_proj"])),
}


def base_model(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


def rounded(tensor):
    """Nine digits: every float32."""
    return [float(f"{x:.9g}") for x in tensor.detach().float().flatten().tolist()]


def shown(logits):
    rows = sorted({*range(0, LENGTH, 3), LENGTH - 1})
    return rows, [rounded(row) for row in logits[:, rows].reshape(-1, VOCAB)]


def make_case(root, name, seed):
    base, settings = CASES[name]
    folder = root / "peft" / name
    model = get_peft_model(base_model(root / base), LoraConfig(task_type="CAUSAL_LM", **settings))
    # PEFT's own B is zero, and A then has no gradient.
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if "lora_" in parameter_name:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    model.peft_config["default"].base_model_name_or_path = base
    model.save_pretrained(folder)
    (folder / "README.md").unlink()

    # From the files, as any user would.
    model = PeftModel.from_pretrained(base_model(root / base), folder, is_trainable=True).eval()
    tokens = torch.randint(0, VOCAB, (2, LENGTH), generator=torch.Generator().manual_seed(seed + 1))
    logits = model(tokens).logits
    logprobs = logits.log_softmax(-1)[:, :-1].gather(-1, tokens[:, 1:, None])[..., 0]
    loss = -logprobs[:, PROMPT - 1:].mean()
    loss.backward()
    gradients = {
        parameter_name.replace(".default", ""): rounded(parameter.grad)
        for parameter_name, parameter in model.named_parameters() if parameter.requires_grad
    }
    assert set(gradients) == set(load_file(folder / "adapter_model.safetensors"))
    rows, values = shown(logits)
    expected = dict(
        peft=peft.__version__, transformers=transformers.__version__, torch=torch.__version__.split("+")[0], base=base,
        prompt=PROMPT, tokens=tokens.tolist(), shown=rows, logits=values, loss=loss.item(), gradients=gradients,
    )
    (folder / "expected.json").write_text(json.dumps(expected))


def check(root):
    bases = pathlib.Path(__file__).resolve().parent.parent / "model" / "tests" / "fixtures"
    cases = sorted(path for path in root.iterdir() if (path / "ours.json").is_file())
    assert cases, f"{root}: nothing that Troupe wrote"
    for case in cases:
        ours = json.loads((case / "ours.json").read_text())
        tokens, expected = torch.tensor(ours["tokens"]), torch.tensor(ours["logits"])
        adapted = PeftModel.from_pretrained(base_model(bases / ours["base"]), case / "adapter").eval()
        with torch.no_grad():
            from_adapter = adapted(tokens).logits
            from_base = base_model(bases / ours["base"])(tokens).logits
            from_merged = base_model(case / "merged")(tokens).logits
            unloaded = adapted.merge_and_unload()(tokens).logits
        size = expected.abs().max()

        def gap(found):
            return ((found.reshape(-1, VOCAB) - expected).abs().max() / size).item()

        print(f"{case.name}: adapter {gap(from_adapter):.1e}, merged {gap(from_merged):.1e}, "
              f"merged by PEFT {gap(unloaded):.1e}, base {gap(from_base):.1e} (relative to the largest logit)")
        assert max(gap(from_adapter), gap(from_merged), gap(unloaded)) < 1e-5 and gap(from_base) > 1e-3
        rows, values = shown(from_adapter)
        expected = dict(peft=peft.__version__, transformers=transformers.__version__, base=ours["base"],
                        tokens=ours["tokens"], shown=rows, logits=values)
        (case / "expected.json").write_text(json.dumps(expected))


def main():
    command, target = sys.argv[1], pathlib.Path(sys.argv[2])
    if command == "check":
        return check(target)
    for index, name in enumerate(CASES):
        shutil.rmtree(target / "peft" / name, ignore_errors=True)
        make_case(target, name, 1000 + 10 * index)


if __name__ == "__main__":
    main()
