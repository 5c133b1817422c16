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

/// The set in `dir` again in `into`, which exists, with `rows` times the rows in every task: its first size is multiplied. What the
/// interpreter is given stays.
///
/// # Errors
/// A folder or file that cannot be read or written, a task without a size.
pub fn enlarge(dir: &Path, rows: usize, into: &Path) -> Result<(), UserError> {
    for entry in walkdir::WalkDir::new(dir).sort_by_file_name() {
        let entry = entry.map_err(|e| UserError::io("read the device set", dir, &e.into()))?;
        let path = entry.path();
        let to = into.join(path.strip_prefix(dir).unwrap_or(path));
        if entry.file_type().is_dir() {
            std::fs::create_dir_all(&to).map_err(|e| UserError::io("make a folder for the device set", &to, &e))?;
        } else if path.parent() == Some(dir.join("tasks").as_path()) {
            let text = std::fs::read_to_string(path).map_err(|e| UserError::io("read a task", path, &e))?;
            let text = with_rows(&text, rows).ok_or_else(|| {
                UserError::new("a task of the device set has no rows to multiply")
                    .at(path.display().to_string())
                    .expected("a line such as `M = 4096` before the model")
            })?;
            std::fs::write(&to, text).map_err(|e| UserError::io("write a task", &to, &e))?;
        } else {
            std::fs::copy(path, &to).map_err(|e| UserError::io("copy the device set to", &to, &e))?;
        }
    }
    Ok(())
}

/// `text` with its first line `NAME = NUMBER` multiplied.
fn with_rows(text: &str, rows: usize) -> Option<String> {
    let size = |line: &str| {
        let (name, value) = line.split_once(" = ")?;
        let plain = !name.is_empty() && name.bytes().all(|b| b.is_ascii_uppercase());
        value.parse::<usize>().ok().filter(|_| plain)
    };
    let (index, line, value) = text.lines().enumerate().find_map(|(n, line)| Some((n, line, size(line)?)))?;
    let name = line.split(" = ").next()?;
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines[index] = format!("{name} = {}", value.checked_mul(rows)?);
    Some(lines.join("\n") + "\n")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_of_the_set_can_have_more_rows_and_is_the_same_otherwise() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/device");
        let into = tempfile::tempdir().expect("a folder");
        enlarge(&dir, 4, into.path()).expect("the set is copied");
        let (small, large) = (load(&dir).expect("the set"), load(into.path()).expect("the copy"));
        assert_eq!(small.len(), large.len());
        for (a, b) in small.iter().zip(&large) {
            assert_eq!((&a.name, &a.candidate, &a.expect), (&b.name, &b.candidate, &b.expect));
            let (a, b): (Vec<_>, Vec<_>) = (a.task.source.lines().collect(), b.task.source.lines().collect());
            let different: Vec<_> = a.iter().zip(&b).filter(|(a, b)| a != b).collect();
            assert_eq!((a.len(), different.len()), (b.len(), 1), "{different:?}");
            let number = |line: &str| line.split(" = ").nth(1).and_then(|n| n.parse::<usize>().ok());
            assert_eq!(number(different[0].0).map(|n| 4 * n), number(different[0].1));
        }
        assert_eq!(with_rows("# no size\nEPS = 1e-3\n", 2), None);
    }
}
