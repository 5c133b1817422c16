//! Layers of settings: each key's value and who set it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use toml::Value;
use toml::de::{DeTable, DeValue};

use super::keys::{KEYS, Key, Kind, quoted, sections};
use super::{Config, DEFAULT_TOML, check};
use crate::errors::{UserError, nearest};

/// Who set a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The built-in `cluster.toml`.
    Default { line: usize },
    /// A `-c` file; the line is 1-based.
    File { path: PathBuf, line: usize },
    /// `--set`, as it was written.
    Set { text: String },
    /// The resolved configuration that a run stored of itself.
    Resolved { path: PathBuf, line: usize },
}

impl Origin {
    /// True when the user asked for the value in this very command, so that it must have an effect.
    pub fn is_user(&self) -> bool {
        matches!(self, Origin::File { .. } | Origin::Set { .. })
    }
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Origin::Default { line } => write!(f, "built-in cluster.toml, line {line}"),
            Origin::File { path, line } | Origin::Resolved { path, line } => {
                write!(f, "{}, line {line}", path.display())
            }
            Origin::Set { text } => write!(f, "--set {text}"),
        }
    }
}

/// Values and their origins, keyed by `section.name`.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    values: BTreeMap<&'static str, (Value, Origin)>,
    /// Sections that a file holds with every key: copies of the documented default, `(file, section)`.
    whole: BTreeSet<(PathBuf, &'static str)>,
}

impl Settings {
    /// The built-in default alone.
    pub fn builtin() -> Result<Settings, UserError> {
        let mut settings = Settings::default();
        settings.add_text(DEFAULT_TOML, |line| Origin::Default { line })?;
        Ok(settings)
    }

    /// Who asked for this key's value in this very command. A key that stands at its default in a section that a file
    /// copied whole from `cluster.toml` was not asked for.
    pub fn asked(&self, path: &str) -> Option<&Origin> {
        let (value, origin) = self.values.get(path).filter(|(_, o)| o.is_user())?;
        if let Origin::File { path: file, .. } = origin {
            let section = path.split_once('.').map_or("", |(s, _)| s);
            let copied = self.whole.iter().any(|(f, s)| f == file && *s == section);
            let default = Settings::builtin().ok().and_then(|d| d.values.get(path).map(|(v, _)| v.clone()));
            if copied && default.as_ref() == Some(value) {
                return None;
            }
        }
        Some(origin)
    }

    /// Who set this key; `None` for a key that does not exist.
    pub fn origin(&self, path: &str) -> Option<&Origin> {
        self.values.get(path).map(|(_, o)| o)
    }

    /// The value of a key that holds text.
    pub fn text(&self, path: &str) -> Option<&str> {
        self.values.get(path).and_then(|(value, _)| value.as_str())
    }

    /// True for a flag that is set.
    pub fn flag(&self, path: &str) -> bool {
        self.values.get(path).and_then(|(value, _)| value.as_bool()).unwrap_or(false)
    }

    /// Lays a run file over the present settings.
    pub fn add_file(&mut self, file: &std::path::Path) -> Result<(), UserError> {
        let text = std::fs::read_to_string(file).map_err(|e| UserError::io("read the run file", file, &e))?;
        self.add_text(&text, |line| Origin::File { path: file.to_path_buf(), line })
    }

    /// Lays a TOML document over the present settings; `origin` turns a line into an origin.
    pub fn add_text(&mut self, text: &str, origin: impl Fn(usize) -> Origin) -> Result<(), UserError> {
        let line_of = |offset: usize| 1 + text[..offset.min(text.len())].matches('\n').count();
        let document = DeTable::parse(text).map_err(|e| {
            let line = e.span().map_or(1, |s| line_of(s.start));
            let place = origin(line);
            let found = text.lines().nth(line - 1).unwrap_or("").trim();
            UserError::new("the run file is not valid TOML")
                .at(place)
                .found(if found.is_empty() { "end of file" } else { found })
                .expected(format!("a TOML document ({})", e.message()))
                .hint("texts need quotes; a section is `[name]`, a key is `name = value`")
        })?;
        for (section, content) in document.into_inner() {
            let place = origin(line_of(section.span().start));
            let section = section.into_inner();
            if !sections().contains(&section.as_ref()) {
                return Err(unknown_section(&section, place));
            }
            let DeValue::Table(keys) = content.into_inner() else {
                return Err(UserError::new(format!("`{section}` is a section, not a key"))
                    .at(place)
                    .found(format!("{section} = .."))
                    .expected(format!("[{section}]"))
                    .hint("write the keys of the section below its name in brackets"));
            };
            self.note_whole(&section, keys.len(), &place);
            for (name, value) in keys {
                let place = origin(line_of(name.span().start));
                let path = format!("{section}.{}", name.get_ref());
                let Some(key) = KEYS.iter().find(|k| k.path == path) else {
                    return Err(unknown_key(&section, name.get_ref(), place));
                };
                let span = value.span();
                let written = text.get(span).unwrap_or("").to_string();
                self.put(key, plain(value.into_inner()), &written, place)?;
            }
        }
        Ok(())
    }

    fn note_whole(&mut self, section: &str, keys: usize, place: &Origin) {
        let all = KEYS.iter().filter(|k| k.section() == section);
        if let (Origin::File { path, .. }, true) = (place, all.clone().count() == keys) {
            self.whole.extend(all.map(|k| (path.clone(), k.section())));
        }
    }

    /// Lays one `key=value` over the present settings. The section may be left out where the name is unique.
    pub fn add_set(&mut self, text: &str) -> Result<(), UserError> {
        let origin = Origin::Set { text: text.to_string() };
        let Some((name, written)) = text.split_once('=') else {
            return Err(UserError::new("`--set` needs a key and a value")
                .at(origin)
                .found(format!("`{text}`"))
                .expected("section.key=value")
                .hint("for example `--set rollout.staleness_max=0`"));
        };
        let (name, written) = (name.trim(), written.trim());
        let key = find_key(name, &origin)?;
        self.put(key, from_command_line(key, written), written, origin)
    }

    fn put(&mut self, key: &Key, value: Option<Value>, written: &str, origin: Origin) -> Result<(), UserError> {
        match value {
            Some(value) if key.kind.accepts(&value) => {
                // A whole number is fine for a real key, but the type has to be one.
                let value = match (key.kind, value) {
                    (Kind::Real { .. }, Value::Integer(n)) => Value::Float(n as f64),
                    (_, value) => value,
                };
                self.values.insert(key.path, (value, origin));
                Ok(())
            }
            value => Err(bad_value(key, value.as_ref(), written, origin)),
        }
    }

    /// Checks the keys against each other and makes the typed configuration.
    pub fn resolve(self) -> Result<Config, UserError> {
        let config = self.read()?;
        check::check(&config, &self)?;
        Ok(config)
    }

    /// The values as they are, for looking at: what they name need not be on this machine, nor this build be one that could run them.
    pub(super) fn read(&self) -> Result<Config, UserError> {
        let mut document = toml::Table::new();
        for (path, (value, _)) in &self.values {
            let (section, name) = path.split_once('.').unwrap_or(("", path));
            let section = document.entry(section).or_insert_with(|| Value::Table(toml::Table::new()));
            if let Value::Table(table) = section {
                table.insert(name.to_string(), value.clone());
            }
        }
        // Cannot fail for keys that passed `put`; a test holds the list of keys and the type equal.
        document.try_into().map_err(|e: toml::de::Error| UserError::new(e.message().to_string()))
    }
}

pub(super) fn find_key(name: &str, origin: &Origin) -> Result<&'static Key, UserError> {
    if let Some((section, key)) = name.split_once('.') {
        return KEYS.iter().find(|k| k.path == name).ok_or_else(|| {
            if sections().contains(&section) {
                unknown_key(section, key, origin.clone())
            } else {
                unknown_section(section, origin.clone())
            }
        });
    }
    let named: Vec<&'static Key> = KEYS.iter().filter(|k| k.name() == name).collect();
    match named[..] {
        [key] => Ok(key),
        [] => {
            let hint = match nearest(name, KEYS.iter().map(Key::name)) {
                Some(n) => format!("did you mean `{n}`?"),
                None => "`troupe run --dry-run` prints every key".to_string(),
            };
            Err(UserError::new(format!("unknown key `{name}`"))
                .at(origin)
                .found(format!("`{name}`"))
                .expected("section.key=value with a key of cluster.toml")
                .hint(hint))
        }
        _ => {
            let all: Vec<String> = named.iter().map(|k| format!("`{}`", k.path)).collect();
            Err(UserError::new(format!("the key `{name}` is in several sections"))
                .at(origin)
                .found(format!("`{name}`"))
                .expected(format!("one of {}", all.join(", ")))
                .hint("write the section too"))
        }
    }
}

fn unknown_section(section: &str, origin: Origin) -> UserError {
    let hint = match nearest(section, sections()) {
        Some(s) => format!("did you mean `{s}`?"),
        None => "a key belongs below its section's name in brackets".to_string(),
    };
    UserError::new(format!("unknown section `{section}`"))
        .at(origin)
        .found(format!("`{section}`"))
        .expected(format!("one of {}", ticked(&sections())))
        .hint(hint)
}

fn unknown_key(section: &str, name: &str, origin: Origin) -> UserError {
    let here: Vec<&str> = KEYS.iter().filter(|k| k.section() == section).map(Key::name).collect();
    let elsewhere = KEYS.iter().find(|k| k.name() == name);
    let hint = match (elsewhere, nearest(name, here.iter().copied())) {
        (Some(key), _) => format!("`{name}` is a key of [{}]", key.section()),
        (None, Some(n)) => format!("did you mean `{n}`?"),
        (None, None) => "`troupe run --dry-run` prints every key".to_string(),
    };
    UserError::new(format!("unknown key `{section}.{name}`"))
        .at(origin)
        .found(format!("`{name}`"))
        .expected(format!("one of {}", ticked(&here)))
        .hint(hint)
}

fn ticked(words: &[&str]) -> String {
    words.iter().map(|w| format!("`{w}`")).collect::<Vec<_>>().join(", ")
}

fn bad_value(key: &Key, value: Option<&Value>, written: &str, origin: Origin) -> UserError {
    let type_name = match value {
        Some(Value::String(_)) => "a text",
        Some(Value::Integer(_)) => "a whole number",
        Some(Value::Float(_)) => "a number with a fraction",
        Some(Value::Boolean(_)) => "a flag",
        Some(Value::Array(_)) => "a list",
        Some(Value::Table(_)) => "a section",
        Some(Value::Datetime(_)) => "a date",
        None => "not a value",
    };
    let hint = match (key.kind, value) {
        (Kind::Choice(all), Some(Value::String(s))) => match nearest(s, all.iter().copied()) {
            Some(c) => format!("did you mean \"{c}\"?"),
            None => format!("choose one of {}", quoted(all)),
        },
        (Kind::Whole { .. } | Kind::Real { .. } | Kind::Flag, Some(Value::String(_))) => {
            "write the value without quotes".to_string()
        }
        _ => "the comment above the key in cluster.toml says what it means".to_string(),
    };
    UserError::new(format!("wrong value for `{}`", key.path))
        .at(origin)
        .found(format!("{} ({type_name})", if written.is_empty() { "nothing" } else { written }))
        .expected(key.kind.expected())
        .hint(hint)
}

/// A text key takes what is written as it stands, with or without quotes; every other key takes a TOML value.
fn from_command_line(key: &Key, written: &str) -> Option<Value> {
    let wants_text = matches!(key.kind, Kind::Text | Kind::FullText | Kind::Choice(_));
    let quoted = written.starts_with('"') || written.starts_with('\'');
    if wants_text && !quoted {
        return Some(Value::String(written.to_string()));
    }
    DeValue::parse(written).ok().and_then(|v| plain(v.into_inner()))
}

/// A parsed value without its places; `None` for a number too large for its type.
fn plain(value: DeValue<'_>) -> Option<Value> {
    Some(match value {
        DeValue::String(s) => Value::String(s.into_owned()),
        DeValue::Integer(n) => Value::Integer(i64::from_str_radix(n.as_str(), n.radix()).ok()?),
        DeValue::Float(x) => Value::Float(x.as_str().parse().ok()?),
        DeValue::Boolean(b) => Value::Boolean(b),
        DeValue::Datetime(d) => Value::Datetime(d),
        DeValue::Array(list) => {
            Value::Array(list.into_iter().map(|v| plain(v.into_inner())).collect::<Option<Vec<_>>>()?)
        }
        DeValue::Table(_) => Value::Table(toml::Table::new()),
    })
}
