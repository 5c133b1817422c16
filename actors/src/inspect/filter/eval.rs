//! A filter over columns in memory: one pass over a column for each comparison.
//!
//! One field, `answer`, is a long text that stays in the store. Of a rollout it may therefore not be known yet whether the
//! filter holds; the index of answers is asked, and then the store, for as few rollouts as possible.

use super::{Expr, Field, Filter, Kind, Literal};
use crate::inspect::table::{Column, FINDINGS, Table};

/// For each row of a table: can the filter hold, and must it? Where it can but need not, the store has to be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    pub can: Vec<bool>,
    pub must: Vec<bool>,
}

impl Known {
    fn sure(holds: Vec<bool>) -> Known {
        Known { can: holds.clone(), must: holds }
    }

    fn both(self, other: Known, op: fn(bool, bool) -> bool) -> Known {
        let join = |a: Vec<bool>, b: Vec<bool>| a.into_iter().zip(b).map(|(a, b)| op(a, b)).collect();
        Known { can: join(self.can, other.can), must: join(self.must, other.must) }
    }
}

impl Filter {
    /// True when every answer is in the columns.
    pub fn is_quick(&self) -> bool {
        !any(&self.root, &|field, op| is_long(field) || is_message(field, op))
    }

    /// True when the index of answers is of use.
    pub fn needs_answers(&self) -> bool {
        any(&self.root, &|field, _| is_long(field))
    }

    /// What the columns say; `levels` are the run's tasks with their levels, `texts` says what is known of `answer ~ text`.
    pub fn known(&self, table: &Table, levels: &[(String, u8)], texts: &dyn Fn(&str) -> Option<Known>) -> Known {
        known(&self.root, table, levels, texts)
    }
}

fn any(e: &Expr, holds: &dyn Fn(&Field, &str) -> bool) -> bool {
    match e {
        Expr::And(a, b) | Expr::Or(a, b) => any(a, holds) || any(b, holds),
        Expr::Not(a) => any(a, holds),
        Expr::Compare { field, op, .. } => holds(field, op),
    }
}

/// A long text stays in the store.
fn is_long(field: &Field) -> bool {
    field.name == "answer"
}

/// And so do the findings' messages.
fn is_message(field: &Field, op: &str) -> bool {
    field.kind == Kind::Finding && op == "~"
}

fn known(e: &Expr, table: &Table, levels: &[(String, u8)], texts: &dyn Fn(&str) -> Option<Known>) -> Known {
    let known = |e: &Expr| known(e, table, levels, texts);
    match e {
        Expr::And(a, b) => known(a).both(known(b), |a, b| a && b),
        Expr::Or(a, b) => known(a).both(known(b), |a, b| a || b),
        Expr::Not(a) => {
            let Known { can, must } = known(a);
            let not = |v: Vec<bool>| v.into_iter().map(|b| !b).collect();
            Known { can: not(must), must: not(can) }
        }
        Expr::Compare { field, op, .. } if is_message(field, op) => {
            // What was not judged has no findings.
            let can = (0..table.len()).map(|row| table.word(FINDINGS, row).is_some()).collect();
            Known { can, must: vec![false; table.len()] }
        }
        Expr::Compare { field, op, value } if is_long(field) => {
            let found = match value {
                Literal::Text(text) if *op == "~" => texts(text),
                _ => None,
            };
            found.unwrap_or_else(|| Known { can: vec![true; table.len()], must: vec![false; table.len()] })
        }
        Expr::Compare { field, op, value } => Known::sure(compare(field, op, value, table, levels)),
    }
}

fn compare(field: &Field, op: &str, value: &Literal, table: &Table, levels: &[(String, u8)]) -> Vec<bool> {
    if field.name == "staleness" {
        let of = |(step, policy): (&f64, &f64)| step - 1.0 - policy;
        let staleness = table.number("step").iter().zip(table.number("policy_oldest")).map(of);
        return numbers(staleness, op, value);
    }
    if field.name == "id" {
        return numbers(table.ids().iter().map(|id| *id as f64), op, value);
    }
    match table.column(field.column()) {
        Some(Column::Number(all)) => numbers(all.iter().copied(), op, value),
        Some(Column::Word(words)) => {
            // Each word once, then each row by its word.
            let holds: Vec<bool> = words.dictionary().map(|word| word_holds(field, word, op, value, levels)).collect();
            words.codes().iter().map(|code| holds[*code as usize]).collect()
        }
        // Every field of the language is a column of the table (a test holds it).
        None => vec![false; table.len()],
    }
}

/// NaN is what is not known: false in every comparison, as in SQL.
fn numbers(all: impl Iterator<Item = f64>, op: &str, value: &Literal) -> Vec<bool> {
    let Literal::Number(n) = *value else {
        return all.map(|x| x.is_nan() == (op == "=")).collect();
    };
    match op {
        "=" => all.map(|x| x == n).collect(),
        "!=" => all.map(|x| !x.is_nan() && x != n).collect(),
        "<" => all.map(|x| x < n).collect(),
        "<=" => all.map(|x| x <= n).collect(),
        ">" => all.map(|x| x > n).collect(),
        _ => all.map(|x| x >= n).collect(),
    }
}

fn word_holds(field: &Field, word: Option<&str>, op: &str, value: &Literal, levels: &[(String, u8)]) -> bool {
    match (field.kind, word, value) {
        (_, word, Literal::None) => word.is_none() == (op == "="),
        // What was not judged has no findings.
        (Kind::Finding, word, Literal::Text(code)) => {
            let has = |word: &str| !code.contains(',') && word.contains(&format!(",{},", code.to_uppercase()));
            word.is_some_and(has) == (op == "=")
        }
        (_, None, _) => false,
        (Kind::Level, Some(task), Literal::Number(_)) => {
            let level = levels.iter().find(|(name, _)| name == task).map_or(f64::NAN, |(_, level)| f64::from(*level));
            numbers(std::iter::once(level), op, value)[0]
        }
        (_, Some(word), Literal::Text(text)) => match op {
            "=" => word == text,
            "!=" => word != text,
            // As SQLite's lower(): ASCII alone.
            _ => word.to_ascii_lowercase().contains(&text.to_ascii_lowercase()),
        },
        (_, Some(_), Literal::Number(_)) => false,
    }
}
