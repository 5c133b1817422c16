//! What is trained on and what is evaluated, kept apart: by name, and by what a task's source says.

use std::collections::{BTreeMap, BTreeSet};

use rollout::id::TaskId;
use rollout::task::{Split, TaskSpec};

use super::{Example, TaskError, load_examples, load_tasks};
use crate::config::Config;
use crate::errors::UserError;

/// What the warm start learns from.
#[derive(Debug)]
pub struct WarmStartExamples {
    /// Each with its task.
    pub examples: Vec<(TaskSpec, Example)>,
    /// Built-in examples of tasks that `tasks.dir` evaluates: left out, or what is trained on would be evaluated.
    pub kept_out: usize,
}

/// The warm start's examples: those of `sft.examples` for the tasks of `tasks.dir`, or the built-in examples, which belong to the
/// built-in tasks even when `tasks.dir` is the user's own; without those of tasks that are evaluated there.
///
/// # Errors
/// As [`load_tasks`] and [`load_examples`]; or every example is of a task that is evaluated.
pub fn warm_start_examples(config: &Config) -> Result<WarmStartExamples, TaskError> {
    let own = load_tasks(config.tasks.folder())?;
    // Examples of the user's own are of training tasks: `load_examples` sees to that.
    let foreign = config.sft.folder().is_none() && config.tasks.folder().is_some();
    let tasks = if foreign { load_tasks(None)? } else { own.clone() };
    let examples = load_examples(config.sft.folder(), &tasks)?;
    let by_id: BTreeMap<&TaskId, &TaskSpec> = tasks.iter().map(|t| (&t.id, t)).collect();
    let all = examples.into_iter().filter_map(|e| Some(((*by_id.get(&e.task)?).clone(), e)));
    let evaluated = || own.iter().filter(|t| t.split != Split::Train);
    let ids: BTreeSet<&TaskId> = evaluated().map(|t| &t.id).collect();
    let sources: BTreeSet<String> = evaluated().map(|t| bare(&t.source)).collect();
    let known = |task: &TaskSpec| ids.contains(&task.id) || sources.contains(&bare(&task.source));
    let (out, examples): (Vec<_>, Vec<_>) = all.partition(|(task, _)| foreign && known(task));
    if examples.is_empty() {
        return Err(UserError::new("the warm start has no examples")
            .at("tasks.dir")
            .found(format!("all {} built-in examples are of tasks that are evaluated there", out.len()))
            .expected("examples of tasks in `train`")
            .hint("bring your own with `sft.examples`, or leave out the warm start with `sft.enabled = false`"));
    }
    Ok(WarmStartExamples { examples, kept_out: out.len() })
}

/// Tasks of the split that is evaluated that have the source of one that is trained on, under another name: (evaluated, trained on).
pub fn leaks(tasks: &[TaskSpec], evaluated: Split) -> Vec<(TaskId, TaskId)> {
    let of = |split: Split| tasks.iter().filter(move |t| t.split == split);
    let train: BTreeMap<String, &TaskId> = of(Split::Train).map(|t| (bare(&t.source), &t.id)).collect();
    let same = |t: &TaskSpec| train.get(&bare(&t.source)).map(|trained| (t.id.clone(), (*trained).clone()));
    of(evaluated).filter_map(same).collect()
}

/// A source without what says nothing: blank lines, comments on lines of their own, spaces at the ends.
fn bare(source: &str) -> String {
    let lines = source.lines().map(str::trim_end).filter(|l| !l.is_empty() && !l.trim_start().starts_with('#'));
    lines.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn put(dir: &Path, at: &str, text: &str) {
        let path = dir.join(at);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// Planted bug: examples are held against the built-in splits alone. Seen: both are trained on.
    #[test]
    fn a_built_in_example_of_a_task_that_the_user_evaluates_is_left_out() {
        let (tasks, all) = (load_tasks(None).unwrap(), warm_start_examples(&Config::builtin().unwrap()).unwrap());
        assert_eq!(all.kept_out, 0);
        let of = |id: &TaskId| all.examples.iter().filter(|(task, _)| task.id == *id).count();
        let with: Vec<&TaskSpec> = tasks.iter().filter(|t| of(&t.id) > 0).collect();
        let [named, renamed, trained, ..] = &with[..] else { panic!("{} tasks have examples", with.len()) };
        let dir = tempfile::tempdir().unwrap();
        let other = named.source.replace("import torch", "import torch  # not word for word");
        put(dir.path(), &format!("held_out/level1/{}.py", named.id.0), &other);
        put(dir.path(), "validation/level1/another_name.py", &format!("# mine\n\n{}\n", renamed.source));
        put(dir.path(), &format!("train/level1/{}.py", trained.id.0), &trained.source);
        let mut config = Config::builtin().unwrap();
        config.tasks.dir = dir.path().to_path_buf();
        let left = warm_start_examples(&config).unwrap();
        assert_eq!(left.kept_out, of(&named.id) + of(&renamed.id));
        assert_eq!(left.examples.len(), all.examples.len() - left.kept_out);
        assert!(left.examples.iter().all(|(task, _)| task.id != named.id && task.id != renamed.id));
        assert!(left.examples.iter().any(|(task, _)| task.id == trained.id));
    }

    #[test]
    fn the_same_task_under_another_name_is_told() {
        let task = |id: &str, split: Split, source: &str| TaskSpec {
            id: TaskId(id.into()),
            level: 1,
            split,
            tags: Vec::new(),
            source: source.into(),
        };
        let tasks = [
            task("a", Split::Train, "x = 1\ny = 2\n"),
            task("b", Split::HeldOut, "# b\nx = 1  \n\ny = 2"),
            task("c", Split::Validation, "x = 1\ny = 3\n"),
        ];
        let name = |id: &str| TaskId(id.into());
        assert_eq!(leaks(&tasks, Split::HeldOut), [(name("b"), name("a"))]);
        assert_eq!(leaks(&tasks, Split::Validation), []);
        assert_eq!(leaks(&load_tasks(None).unwrap(), Split::HeldOut), []);
    }
}
