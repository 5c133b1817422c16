//! The device set: tasks at sizes that keep a GPU busy, candidates of which it is known what they must come to.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rollout::outcome::Candidate;
use rollout::task::TaskSpec;

use crate::errors::UserError;
use crate::tasks;

/// What a candidate must come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expect {
    /// A verdict's name.
    pub verdict: String,
}

/// One candidate of the set.
#[derive(Clone, Debug)]
pub struct Item {
    pub name: String,
    pub task: Arc<TaskSpec>,
    pub candidate: Candidate,
    pub expect: Expect,
    pub task_path: PathBuf,
    pub path: PathBuf,
}

/// Every candidate below `dir/candidates`, by name; its task is the part of its name before the first `__`.
///
/// # Errors
/// A folder or file that cannot be read, a candidate without `# expect:`.
pub fn load(dir: &Path) -> Result<Vec<Item>, UserError> {
    let folder = dir.join("candidates");
    let listed = std::fs::read_dir(&folder).map_err(|e| UserError::io("read the device set", &folder, &e))?;
    let mut paths: Vec<PathBuf> = listed.flatten().map(|e| e.path()).collect();
    paths.retain(|p| p.extension().is_some_and(|e| e == "py"));
    paths.sort();
    paths.into_iter().map(|path| item(dir, path)).collect()
}

/// Every `n`-th of the candidates with the same verdict, at least one of each: the mix stays what it is.
pub fn sample(items: &[Item], n: usize) -> Vec<Item> {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let nth = |item: &&Item| {
        let count = seen.entry(item.expect.verdict.clone()).or_default();
        *count += 1;
        (*count - 1).is_multiple_of(n.max(1))
    };
    items.iter().filter(nth).cloned().collect()
}

fn item(dir: &Path, path: PathBuf) -> Result<Item, UserError> {
    let source = std::fs::read_to_string(&path).map_err(|e| UserError::io("read a candidate", &path, &e))?;
    let name = path.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
    let task_name = name.split("__").next().unwrap_or_default();
    let task_path = dir.join("tasks").join(format!("{task_name}.py"));
    let task = tasks::load_task(&task_path)?;
    let expect = source.lines().find_map(|l| l.strip_prefix("# expect:")).map(|v| v.trim().to_owned());
    let verdict = expect.ok_or_else(|| {
        UserError::new("a candidate of the device set does not say what it must come to")
            .at(path.display().to_string())
            .expected("a line `# expect: VERDICT`")
    })?;
    let candidate = reward::extract::from_python(&source).map_err(|e| {
        UserError::new("a candidate of the device set is no program")
            .at(path.display().to_string())
            .found(e.to_string())
    })?;
    Ok(Item { name, task: Arc::new(task), candidate, expect: Expect { verdict }, task_path, path })
}
