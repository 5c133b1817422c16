//! The tasks that a run samples from, with their prompts, and how long a text can become.

use std::sync::Arc;

use rollout::task::{Split, TaskSpec};

use crate::config::Config;
use crate::crew::{Prompt, TaskEntry};
use crate::errors::UserError;
use crate::prompt::prompt_messages;
use crate::run::RunError;
use crate::sft;

/// Every task that is sampled from, with its prompt.
pub(super) fn entries(
    config: &Config,
    tasks: &[TaskSpec],
    tokenizer: &model::Tokenizer,
    positions: usize,
) -> Result<Vec<Arc<TaskEntry>>, RunError> {
    let style = sft::prompt_style(config);
    let mut entries = Vec::new();
    for task in tasks.iter().filter(|task| task.split == Split::Train || task.split == config.eval.tasks()) {
        let messages = prompt_messages(task, style);
        let tokens = tokenizer.encode_chat(&messages, true)?;
        if tokens.len() + config.sampling.max_new_tokens > positions {
            return Err(UserError::new("a task's prompt leaves too little room for an answer")
                .at(format!("task {}", task.id))
                .found(format!(
                    "{} prompt tokens + sampling.max_new_tokens = {}",
                    tokens.len(),
                    config.sampling.max_new_tokens
                ))
                .expected(format!("at most {positions} positions of the model"))
                .hint("lower sampling.max_new_tokens, shorten the task, or use a model with a longer context")
                .into());
        }
        let text = tokenizer.render_chat(&messages, true)?;
        entries.push(Arc::new(TaskEntry {
            id: Arc::new(task.id.clone()),
            spec: Arc::new(task.clone()),
            prompt: Arc::new(Prompt { text, tokens }),
        }));
    }
    Ok(entries)
}

/// Tokens of the longest prompt and answer that can come.
pub(super) fn longest_text(config: &Config, entries: &[Arc<TaskEntry>], positions: usize) -> usize {
    let longest = entries.iter().map(|entry| entry.prompt.tokens.len()).max().unwrap_or(0);
    (longest + config.sampling.max_new_tokens).min(positions)
}
