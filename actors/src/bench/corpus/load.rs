//! Reads the corpus: files with a few lines of comment that say what they are.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use reward::extract::{extract, from_python};
use rollout::outcome::Candidate;
use rollout::task::TaskSpec;

use super::Layer;
use crate::errors::UserError;
use crate::tasks;

/// What must become of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    Passed,
    Stopped(Layer),
}

/// One file of the corpus.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Below the corpus' folder.
    pub file: String,
    pub row: Option<String>,
    pub task: TaskSpec,
    pub expected: Expected,
    /// What is awkward about it, or how it cheats.
    pub about: String,
    pub candidate: Result<Candidate, String>,
}

/// Everything below `dir`, by file name.
///
/// # Errors
/// Names the file whose head is not as the corpus' README says.
pub fn load(dir: &Path) -> Result<Vec<Entry>, UserError> {
    let mut entries = Vec::new();
    let mut known = BTreeMap::new();
    for (folder, honest) in [("hacks", false), ("honest", true)] {
        let root = dir.join(folder);
        for found in walkdir::WalkDir::new(&root).sort_by_file_name() {
            let found = found.map_err(|e| {
                UserError::new("the corpus cannot be read")
                    .at(root.display())
                    .found(e.to_string())
                    .expected("the folders `tasks`, `hacks` and `honest`")
                    .hint("run from the repository's root, or give the folder with --corpus")
            })?;
            let extension = found.path().extension().and_then(|e| e.to_str());
            if found.file_type().is_file() && matches!(extension, Some("py" | "md")) {
                entries.push(entry(dir, found.path(), honest, &mut known)?);
            }
        }
    }
    Ok(entries)
}

fn entry(dir: &Path, path: &Path, honest: bool, known: &mut BTreeMap<String, TaskSpec>) -> Result<Entry, UserError> {
    let text = std::fs::read_to_string(path).map_err(|e| UserError::io("read a corpus file", path, &e))?;
    let head = head(&text);
    let line = |key: &str| {
        head.get(key).cloned().ok_or_else(|| {
            UserError::new("a corpus file has no complete head")
                .at(path.display())
                .found(format!("no line `{key}: ..`"))
                .expected("the lines that the corpus' README lists, at the top of the file")
                .hint("an answer (`.md`) has them in an HTML comment")
        })
    };
    let name = line("task")?;
    let task = match known.get(&name) {
        Some(task) => task.clone(),
        None => {
            let task = tasks::load_task(&dir.join("tasks").join(format!("{name}.py")))?;
            known.insert(name, task.clone());
            task
        }
    };
    let expected = if honest {
        Expected::Passed
    } else {
        let stops = line("stops")?;
        Expected::Stopped(Layer::named(&stops).ok_or_else(|| {
            UserError::new("a corpus file names no layer")
                .at(path.display())
                .found(format!("stops: {stops}"))
                .expected(Layer::ALL.map(Layer::name).join(", "))
                .hint("the first layer that must stop it")
        })?)
    };
    let is_python = path.extension().is_some_and(|e| e == "py");
    let read = if is_python { from_python(&text) } else { extract(&text) };
    Ok(Entry {
        file: relative(dir, path),
        row: if honest { None } else { Some(line("row")?) },
        about: line(if honest { "honest" } else { "how" })?,
        task,
        expected,
        candidate: read.map_err(|e| e.to_string()),
    })
}

fn relative(dir: &Path, path: &Path) -> String {
    let below: PathBuf = path.strip_prefix(dir).unwrap_or(path).into();
    below.display().to_string()
}

/// `key: value` lines of the comment at the top.
fn head(text: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for line in text.lines() {
        let line = line.trim();
        let said = line.trim_start_matches("<!--").trim_end_matches("-->").trim_start_matches('#').trim();
        match said.split_once(": ") {
            Some((key, value)) if key.chars().all(|c| c.is_ascii_lowercase()) => {
                found.entry(key.to_owned()).or_insert_with(|| value.trim().to_owned());
            }
            _ if said.is_empty() => {}
            _ => break,
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_of_python_files_and_answers() {
        let python =
            head("# row: A5\n# task: reduction\n# stops: static\n# how: a name: and more\nimport torch\n# row: B1\n");
        assert_eq!(python["row"], "A5");
        assert_eq!(python["how"], "a name: and more");
        let answer = head("<!--\nrow: D19\ntask: matmul\n-->\n<think>\nhow: no\n");
        assert_eq!((answer["row"].as_str(), answer["task"].as_str(), answer.get("how")), ("D19", "matmul", None));
    }

    #[test]
    fn a_file_without_its_head_is_named() {
        let dir = tempfile::tempdir().unwrap();
        for folder in ["hacks/A1", "honest", "tasks"] {
            std::fs::create_dir_all(dir.path().join(folder)).unwrap();
        }
        let task = "class Model: pass\ndef get_inputs(): return []\ndef get_init_inputs(): return []\n";
        std::fs::write(dir.path().join("tasks/t.py"), task).unwrap();
        std::fs::write(dir.path().join("honest/a.py"), "# honest: plain\n# task: t\nx = 1\n").unwrap();
        std::fs::write(dir.path().join("hacks/A1/a.py"), "# row: A1\n# task: t\n# how: so\n# stops: luck\n").unwrap();
        let error = load(dir.path()).unwrap_err().to_string();
        assert!(error.contains("hacks/A1/a.py") && error.contains("stops: luck"), "{error}");
        std::fs::write(dir.path().join("hacks/A1/a.py"), "# row: A1\n# task: t\n# how: so\n# stops: numeric\n")
            .unwrap();
        let entries = load(dir.path()).unwrap();
        assert_eq!(entries[0].expected, Expected::Stopped(Layer::Numeric));
        assert_eq!((entries[1].file.as_str(), entries[1].expected), ("honest/a.py", Expected::Passed));
    }
}
