//! The short columns of all rollouts, in memory: what lists, filters, sorting and counts need. About 150 bytes a rollout.

use std::collections::HashMap;

use rusqlite::Row;

use crate::store::StoreError;

/// The columns that are read, in the order of the SELECT; `N` numbers, `W` words. The names are the store's.
const COLUMNS: &[(&str, char)] = &[
    ("phase", 'W'),
    ("grp", 'N'),
    ("task", 'W'),
    ("state", 'W'),
    ("attempt", 'N'),
    ("policy_oldest", 'N'),
    ("policy_newest", 'N'),
    ("finish", 'W'),
    ("n_tokens", 'N'),
    ("plan_tokens", 'N'),
    ("verdict", 'W'),
    ("reward_plan", 'N'),
    ("reward_code", 'N'),
    ("adv_plan", 'N'),
    ("adv_code", 'N'),
    ("ending", 'W'),
    ("step", 'N'),
    ("sampled_at", 'N'),
    ("ended_at", 'N'),
];

/// The columns for a SELECT, the id first.
pub fn select_list() -> String {
    let names: Vec<&str> = std::iter::once("id").chain(COLUMNS.iter().map(|(name, _)| *name)).collect();
    names.join(", ")
}

/// One column. What is not known is NaN, or the word without a text.
pub enum Column {
    Number(Vec<f64>),
    Word(Words),
}

/// Words that repeat, stored once each.
pub struct Words {
    codes: Vec<u32>,
    texts: Vec<String>,
    known: HashMap<String, u32>,
}

impl Words {
    fn new() -> Words {
        Words { codes: Vec::new(), texts: Vec::new(), known: HashMap::new() }
    }

    /// Code 0 is the word that is not known.
    fn code(&mut self, text: Option<&str>) -> u32 {
        let Some(text) = text else { return 0 };
        if let Some(code) = self.known.get(text) {
            return *code;
        }
        self.texts.push(text.to_string());
        let code = self.texts.len() as u32;
        self.known.insert(text.to_string(), code);
        code
    }

    /// By code.
    pub fn dictionary(&self) -> impl Iterator<Item = Option<&str>> {
        std::iter::once(None).chain(self.texts.iter().map(|t| Some(t.as_str())))
    }

    pub fn codes(&self) -> &[u32] {
        &self.codes
    }

    pub fn at(&self, row: usize) -> Option<&str> {
        match self.codes[row] {
            0 => None,
            code => Some(&self.texts[code as usize - 1]),
        }
    }

    /// The code of a word that occurs.
    pub fn find(&self, text: &str) -> Option<u32> {
        self.known.get(text).copied()
    }
}

/// All rollouts, in the order in which they were met.
pub struct Table {
    ids: Vec<u64>,
    rows: HashMap<u64, u32>,
    columns: Vec<Column>,
    /// For a number that is asked for and is no column.
    none: Vec<f64>,
}

impl Default for Table {
    fn default() -> Self {
        let column = |(_, kind): &(&str, char)| match kind {
            'N' => Column::Number(Vec::new()),
            _ => Column::Word(Words::new()),
        };
        Table { ids: Vec::new(), rows: HashMap::new(), columns: COLUMNS.iter().map(column).collect(), none: Vec::new() }
    }
}

impl Table {
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// In the order in which they were met.
    pub fn ids(&self) -> &[u64] {
        &self.ids
    }

    pub fn id(&self, row: usize) -> u64 {
        self.ids[row]
    }

    pub fn row(&self, id: u64) -> Option<usize> {
        self.rows.get(&id).map(|row| *row as usize)
    }

    pub fn column(&self, name: &str) -> Option<&Column> {
        COLUMNS.iter().position(|(n, _)| *n == name).map(|at| &self.columns[at])
    }

    /// A column of numbers; empty for a name that is none.
    pub fn number(&self, name: &str) -> &[f64] {
        match self.column(name) {
            Some(Column::Number(all)) => all,
            _ => &self.none,
        }
    }

    /// The word of a row.
    pub fn word(&self, name: &str, row: usize) -> Option<&str> {
        match self.column(name) {
            Some(Column::Word(words)) => words.at(row),
            _ => None,
        }
    }

    /// A column of words.
    pub fn words(&self, name: &str) -> Option<&Words> {
        match self.column(name) {
            Some(Column::Word(words)) => Some(words),
            _ => None,
        }
    }

    /// Takes a row of `select_list` in; true when something was new.
    pub fn take(&mut self, row: &Row<'_>) -> Result<bool, StoreError> {
        let id = row.get::<_, i64>(0)? as u64;
        let at = self.rows.get(&id).map(|at| *at as usize);
        let mut changed = at.is_none();
        for (n, column) in self.columns.iter_mut().enumerate() {
            match column {
                Column::Number(all) => {
                    // REAL and INTEGER alike; ids, counts and times are far below 2^53.
                    let value = row.get::<_, Option<f64>>(n + 1)?.unwrap_or(f64::NAN);
                    match at {
                        Some(at) => {
                            changed |= all[at].to_bits() != value.to_bits();
                            all[at] = value;
                        }
                        None => all.push(value),
                    }
                }
                Column::Word(words) => {
                    let value = row.get_ref(n + 1)?.as_str_or_null().map_err(rusqlite::Error::from)?;
                    let code = words.code(value);
                    match at {
                        Some(at) => {
                            changed |= words.codes[at] != code;
                            words.codes[at] = code;
                        }
                        None => words.codes.push(code),
                    }
                }
            }
        }
        if at.is_none() {
            self.rows.insert(id, self.ids.len() as u32);
            self.ids.push(id);
        }
        Ok(changed)
    }
}
