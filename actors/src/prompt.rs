//! What the policy is asked. Two styles: compact for the small embedded policy, KernelBench's one-shot style for a
//! model that knows how to follow instructions.

pub use model::chat::Message;
use rollout::task::TaskSpec;
use serde::{Deserialize, Serialize};

/// How a task is put to the policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PromptStyle {
    /// The task's source alone: the embedded policy has learnt what to do with it, every other token is dear.
    Compact,
    /// Instruction, one example, the task: after KernelBench's one-shot prompt.
    OneShot,
}

/// The chat that asks for an answer to `task`; the tokenizer's chat template makes a prompt of it.
pub fn prompt_messages(task: &TaskSpec, style: PromptStyle) -> Vec<Message> {
    let content = match style {
        PromptStyle::Compact => compact(&task.source),
        PromptStyle::OneShot => one_shot(&task.source),
    };
    vec![Message { role: "user".to_string(), content }]
}

/// The source without blank lines (a third of its tokens under the embedded policy's tokenizer) and without its tag
/// comment, which names the operator and is ours. The line break at the end lets the last line be one token.
fn compact(source: &str) -> String {
    let mut kept = String::new();
    for line in without_tags(source).lines().filter(|line| !line.trim().is_empty()) {
        kept.push_str(line);
        kept.push('\n');
    }
    kept
}

/// The source as written, without its tag comment and blank lines around it.
fn without_tags(source: &str) -> String {
    let kept: Vec<&str> = source.lines().filter(|l| !l.trim_start().starts_with("# tags:")).collect();
    kept.join("\n").trim().to_string()
}

fn one_shot(source: &str) -> String {
    format!(
        "You write custom Triton kernels that replace the PyTorch operators of a given architecture, to make it \
         faster.\nReplace as many PyTorch operators as you can: the work itself has to happen in kernels decorated \
         with `@triton.jit` that `ModelNew.forward` launches. Operators may be fused into one kernel, and the \
         algorithm may change, but every result must stay the same.\n\nHere is an example. The architecture:\n\n\
         ```python\n{EXAMPLE_TASK}```\n\nThe same architecture with a custom Triton kernel:\n\n\
         ```python\n{EXAMPLE_ANSWER}```\n\nNow the architecture to work on:\n\n```python\n{}\n```\n\n\
         First think about a plan between <think> and </think>. Then give the whole of the new program in one \
         ```python block: it defines `ModelNew` with the same constructor arguments and inputs as `Model`. Give real \
         code, not pseudocode; just the new model, no other text after it, and no testing code.",
        without_tags(source)
    )
}

const EXAMPLE_TASK: &str = r#"import torch
import torch.nn as nn


class Model(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, a, b):
        return a + b


def get_inputs():
    return [torch.randn(16, 128), torch.randn(16, 128)]


def get_init_inputs():
    return []
"#;

const EXAMPLE_ANSWER: &str = r#"import torch
import torch.nn as nn
import triton
import triton.language as tl


@triton.jit
def add_kernel(a_ptr, b_ptr, out_ptr, n, BLOCK: tl.constexpr):
    offsets = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = offsets < n
    a = tl.load(a_ptr + offsets, mask=mask)
    b = tl.load(b_ptr + offsets, mask=mask)
    tl.store(out_ptr + offsets, a + b, mask=mask)


class ModelNew(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, a, b):
        a = a.contiguous()
        b = b.contiguous()
        out = torch.empty_like(a)
        n = a.numel()
        add_kernel[(triton.cdiv(n, 1024),)](a, b, out, n, BLOCK=1024)
        return out
"#;

#[cfg(test)]
mod tests {
    use rollout::id::TaskId;
    use rollout::task::Split;

    use super::*;

    fn task() -> TaskSpec {
        TaskSpec {
            id: TaskId("t".into()),
            level: 1,
            split: Split::Train,
            tags: vec![],
            source: "# tags: relu\nimport torch\nM = 9\n".into(),
        }
    }

    #[test]
    fn compact_is_the_source_without_its_tags() {
        let messages = prompt_messages(&task(), PromptStyle::Compact);
        assert_eq!(messages.len(), 1);
        assert_eq!((messages[0].role.as_str(), messages[0].content.as_str()), ("user", "import torch\nM = 9\n"));
    }

    #[test]
    fn one_shot_holds_the_task_and_an_example_that_our_own_lint_accepts() {
        let content = &prompt_messages(&task(), PromptStyle::OneShot)[0].content;
        assert!(content.contains("```python\nimport torch\nM = 9\n```"), "{content}");
        let report = reward::lint::lint(EXAMPLE_ANSWER, None);
        assert!(report.syntax && report.functional, "{:?}", report.findings);
        let answer = format!("<think>p</think>\n```python\n{EXAMPLE_ANSWER}```");
        assert_eq!(reward::extract::extract(&answer).unwrap().source, EXAMPLE_ANSWER);
    }
}
