//! The filter language of all viewers: comparisons joined by and, or, not; text in, out comes either a condition in
//! parameterised SQL, or an answer from the columns that a viewer holds in memory (`eval`).
//!
//! ```text
//! expr       := and ("or" and)*
//! and        := unary ("and" unary)*
//! unary      := "not" unary | "(" expr ")" | field op value
//! op         := = | == | != | < | <= | > | >= | ~
//! value      := number | word | 'text' | "text" | none
//! ```
//! A comparison with a value that is not known (yet) is false, so `not` of it is true; `none` asks for that itself.
//! No text of the user becomes part of the SQL: fields come from [`FIELDS`], values are bound.

mod eval;

use reward::hacks::{CLASSES, TIMING, UNCLEAR};
use rusqlite::types::Value;

use super::table::{CODE_KEY, FINDINGS, HACK, SPEEDUP};
use crate::errors::{UserError, nearest};

pub use eval::Known;

/// Deepest nesting of parentheses and `not`.
const MAX_DEPTH: usize = 64;
/// Longest filter, bytes.
const MAX_LENGTH: usize = 4096;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Number,
    Text,
    /// One of these words.
    Word(&'static [&'static str]),
    /// A task's level: not in the store, looked up among the run's tasks.
    Level,
    /// The code of a finding in the ruling, or with `~` a part of one's code and message, also of what was found while it ran.
    Finding,
}

struct Field {
    name: &'static str,
    sql: &'static str,
    kind: Kind,
}

const fn field(name: &'static str, sql: &'static str, kind: Kind) -> Field {
    Field { name, sql, kind }
}

const PHASES: &[&str] = &["eval_before", "train", "eval_after"];
const STATES: &[&str] = &["sampling", "sampled", "judged", "executed", "scored", "ended"];
const FINISHES: &[&str] = &["stop", "length"];
const VERDICTS: &[&str] = &[
    "passed",
    "unparsed",
    "rejected",
    "compile_error",
    "crashed",
    "out_of_memory",
    "timed_out",
    "wrong_answer",
    "implausible",
];
const ENDINGS: &[&str] = &[
    "trained",
    "evaluated",
    "stale",
    "zero_variance",
    "faulted",
    "unscored",
    "group_too_small",
    "stopped",
    "learner_failed",
];

/// The names of `reward::hacks::CLASSES`.
const HACKS: &[&str] = &["delegation", "decoy", "forged", "conditional", "timing", "tampering", "unclear"];

/// Whether one of an answer's findings holds a text. Few rows have any: they are told from the others first.
const MESSAGE_SQL: &str = "(coalesce(instr(ruling, '\"code\":\"'), 0) + coalesce(instr(report, '\"code\":\"'), 0) > 0 AND EXISTS (
 SELECT 1 FROM (SELECT value FROM json_each(ruling, '$.Admit.findings') UNION ALL SELECT value FROM json_each(ruling, '$.Reject.findings')
 UNION ALL SELECT value FROM json_each(report, '$.findings'))
 WHERE instr(lower(json_extract(value, '$.code') || ': ' || json_extract(value, '$.message')), lower(?)) > 0))";

/// The code by which an answer was rejected, as the table in memory finds it; of an impossible time `timing`; else null.
const HACK_SQL: &str = "(SELECT CASE verdict WHEN 'implausible' THEN 'timing' WHEN 'rejected' THEN
 CASE WHEN instr(report, '\"code\":\"K101\"') > 0 THEN 'K101' WHEN reason GLOB '[KJ][0-9][0-9][0-9]*' THEN substr(reason, 1, 4) WHEN reason IS NOT NULL THEN 'K101' END END
 FROM (SELECT coalesce(json_extract(report, '$.outcome.reason'), json_extract(ruling, '$.Reject.outcome.reason')) AS reason))";

/// In the order of the help text.
const FIELDS: &[Field] = &[
    field("id", "id", Kind::Number),
    field("phase", "phase", Kind::Word(PHASES)),
    field("group", "grp", Kind::Number),
    field("task", "task", Kind::Text),
    field("level", "task", Kind::Level),
    field("step", "step", Kind::Number),
    field("state", "state", Kind::Word(STATES)),
    field("attempt", "attempt", Kind::Number),
    field("policy", "policy_oldest", Kind::Number),
    field("policy.newest", "policy_newest", Kind::Number),
    field("staleness", "(step - 1 - policy_oldest)", Kind::Number),
    field("finish", "finish", Kind::Word(FINISHES)),
    field("tokens", "n_tokens", Kind::Number),
    field("plan_tokens", "plan_tokens", Kind::Number),
    field("verdict", "verdict", Kind::Word(VERDICTS)),
    field("reward.plan", "reward_plan", Kind::Number),
    field("reward.code", "reward_code", Kind::Number),
    field("advantage.plan", "adv_plan", Kind::Number),
    field("advantage.code", "adv_code", Kind::Number),
    field("ending", "ending", Kind::Word(ENDINGS)),
    field(SPEEDUP, "json_extract(report, '$.outcome.speedup')", Kind::Number),
    field(HACK, HACK_SQL, Kind::Word(HACKS)),
    field("finding", "ruling", Kind::Finding),
    field("answer", "answer", Kind::Text),
];

/// The documented names of all fields.
pub fn field_names() -> Vec<&'static str> {
    FIELDS.iter().map(|f| f.name).collect()
}

/// The store's column behind a field, for sorting; `None` for a field that is no single short column.
pub fn column_of(name: &str) -> Option<&'static str> {
    let plain = |f: &&Field| f.name == name && !matches!(f.name, "level" | "staleness" | "finding" | "answer");
    FIELDS.iter().find(plain).map(Field::column)
}

impl Field {
    /// The column of the table in memory.
    fn column(&self) -> &'static str {
        match self.kind {
            Kind::Finding => FINDINGS,
            _ if matches!(self.name, HACK | SPEEDUP) => self.name,
            _ => self.sql,
        }
    }
}

/// A parsed filter.
pub struct Filter {
    root: Expr,
}

enum Expr {
    And(Box<Expr>, Box<Expr>),
    Or(Box<Expr>, Box<Expr>),
    Not(Box<Expr>),
    Compare { field: &'static Field, op: &'static str, value: Literal },
}

#[derive(Clone, Debug, PartialEq)]
enum Literal {
    None,
    Number(f64),
    Text(String),
}

impl Filter {
    pub fn parse(text: &str) -> Result<Filter, UserError> {
        let mut parser = Parser { text, tokens: tokens(text)?, at: 0 };
        let root = parser.or(0)?;
        match parser.tokens.get(parser.at) {
            None => Ok(Filter { root }),
            Some(token) => Err(parser.error(token.start, "the end of the filter, `and` or `or`")),
        }
    }

    /// True when a level is asked for, so that the run's tasks are needed.
    pub fn needs_levels(&self) -> bool {
        fn needs(e: &Expr) -> bool {
            match e {
                Expr::And(a, b) | Expr::Or(a, b) => needs(a) || needs(b),
                Expr::Not(a) => needs(a),
                Expr::Compare { field, .. } => field.kind == Kind::Level,
            }
        }
        needs(&self.root)
    }

    /// A condition on the `rollouts` table with its values; `levels` are the run's tasks with their levels.
    pub fn sql(&self, levels: &[(String, u8)]) -> (String, Vec<Value>) {
        let mut values = Vec::new();
        let sql = self.root.sql(levels, &mut values);
        (sql, values)
    }
}

impl Expr {
    fn sql(&self, levels: &[(String, u8)], values: &mut Vec<Value>) -> String {
        match self {
            Expr::And(a, b) => format!("({} AND {})", a.sql(levels, values), b.sql(levels, values)),
            Expr::Or(a, b) => format!("({} OR {})", a.sql(levels, values), b.sql(levels, values)),
            Expr::Not(a) => format!("(NOT {})", a.sql(levels, values)),
            Expr::Compare { field, op, value } => compare(field, op, value, levels, values),
        }
    }
}

fn compare(field: &Field, op: &str, value: &Literal, levels: &[(String, u8)], values: &mut Vec<Value>) -> String {
    let column = field.sql;
    match (field.kind, value) {
        (Kind::Level, Literal::Number(n)) => {
            let holds = |level: u8| {
                let level = f64::from(level);
                match op {
                    "=" => level == *n,
                    "!=" => level != *n,
                    "<" => level < *n,
                    "<=" => level <= *n,
                    ">" => level > *n,
                    _ => level >= *n,
                }
            };
            let tasks: Vec<&str> = levels.iter().filter(|(_, l)| holds(*l)).map(|(t, _)| t.as_str()).collect();
            values.push(Value::Text(serde_json::Value::from(tasks).to_string()));
            "task IN (SELECT value FROM json_each(?))".to_string()
        }
        (Kind::Finding, Literal::Text(text)) if op == "~" => {
            values.push(Value::Text(text.clone()));
            MESSAGE_SQL.to_string()
        }
        (Kind::Finding, Literal::Text(code)) => {
            values.push(Value::Text(format!("{CODE_KEY}{}\"", code.to_uppercase())));
            format!("coalesce(instr(ruling, ?), 0) {} 0", if op == "!=" { "=" } else { "<>" })
        }
        (Kind::Word(_), Literal::Text(name)) if field.name == HACK => {
            let (codes, not) = hack_codes(name);
            values.push(Value::Text(serde_json::Value::from(codes).to_string()));
            let differs = if not == (op == "!=") { "" } else { "NOT " };
            format!("coalesce({column} {differs}IN (SELECT value FROM json_each(?)), 0)")
        }
        (_, Literal::None) => format!("{column} IS {}NULL", if op == "!=" { "NOT " } else { "" }),
        (_, Literal::Text(text)) if op == "~" => {
            values.push(Value::Text(text.clone()));
            format!("coalesce(instr(lower({column}), lower(?)) > 0, 0)")
        }
        (_, literal) => {
            values.push(match literal {
                Literal::Number(n) => Value::Real(*n),
                Literal::Text(t) => Value::Text(t.clone()),
                Literal::None => Value::Null,
            });
            format!("coalesce({column} {op} ?, 0)")
        }
    }
}

/// What `HACK_SQL` says of a class: these codes; or with true, anything but these.
fn hack_codes(name: &str) -> (Vec<&'static str>, bool) {
    // What is rejected by a rule that has no class is unclear, as in memory.
    let not = name == UNCLEAR;
    let classes = CLASSES.iter().filter(|class| (class.name == name) != not);
    let timing = (not || name == TIMING).then_some(TIMING);
    (classes.flat_map(|class| class.codes).copied().chain(timing).collect(), not)
}

#[derive(Clone, Debug, PartialEq)]
enum TokenKind {
    /// A field, a keyword, a value without quotes.
    Word(String),
    Quoted(String),
    Number(f64),
    Op(&'static str),
    Open,
    Close,
}

#[derive(Clone, Debug, PartialEq)]
struct Token {
    kind: TokenKind,
    /// Byte offset.
    start: usize,
}

/// Longest first.
const OPS: &[(&str, &str)] =
    &[("==", "="), ("!=", "!="), ("<=", "<="), (">=", ">="), ("<", "<"), (">", ">"), ("=", "="), ("~", "~")];

fn tokens(text: &str) -> Result<Vec<Token>, UserError> {
    if text.len() > MAX_LENGTH {
        return Err(UserError::new("the filter is too long")
            .at("--filter")
            .found(format!("{} bytes", text.len()))
            .expected(format!("at most {MAX_LENGTH} bytes"))
            .hint("`--json` prints all rollouts; filter them with another program"));
    }
    let mut found = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start();
        let start = text.len() - rest.len();
        let Some(first) = rest.chars().next() else { return Ok(found) };
        let (kind, length) = match first {
            '(' => (TokenKind::Open, 1),
            ')' => (TokenKind::Close, 1),
            '\'' | '"' => {
                let Some(end) = rest[1..].find(first) else {
                    return Err(wrong(text, start, "a closing quote"));
                };
                (TokenKind::Quoted(rest[1..=end].to_string()), end + 2)
            }
            c if is_word(c) => {
                let end = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
                let word = &rest[..end];
                let kind = match word.parse::<f64>() {
                    Ok(n) if n.is_finite() => TokenKind::Number(n),
                    _ => TokenKind::Word(word.to_string()),
                };
                (kind, end)
            }
            _ => match OPS.iter().find(|(written, _)| rest.starts_with(written)) {
                Some((written, op)) => (TokenKind::Op(op), written.len()),
                None => return Err(wrong(text, start, "a field, a comparison, a value or a parenthesis")),
            },
        };
        found.push(Token { kind, start });
        rest = &rest[length..];
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '.' | '-' | '+')
}

/// An error with the place marked below the filter.
fn wrong(text: &str, at: usize, expected: &str) -> UserError {
    let column = text[..at].chars().count();
    let rest = text[at..].split_whitespace().next().unwrap_or("");
    UserError::new("the filter cannot be understood")
        .at(format!("--filter, character {}\n{text}\n{}^", column + 1, " ".repeat(column)))
        .found(if rest.is_empty() { "the end".to_string() } else { format!("`{rest}`") })
        .expected(expected)
        .hint("for example --filter 'verdict = passed and reward.code >= 1'")
}

struct Parser<'a> {
    text: &'a str,
    tokens: Vec<Token>,
    at: usize,
}

impl Parser<'_> {
    fn error(&self, at: usize, expected: &str) -> UserError {
        wrong(self.text, at, expected)
    }

    fn place(&self) -> usize {
        self.tokens.get(self.at).map_or(self.text.len(), |t| t.start)
    }

    fn is_keyword(&self, keyword: &str) -> bool {
        let token = self.tokens.get(self.at).map(|t| &t.kind);
        matches!(token, Some(TokenKind::Word(w)) if w.eq_ignore_ascii_case(keyword))
    }

    fn or(&mut self, depth: usize) -> Result<Expr, UserError> {
        let mut left = self.and(depth)?;
        while self.is_keyword("or") {
            self.at += 1;
            left = Expr::Or(Box::new(left), Box::new(self.and(depth)?));
        }
        Ok(left)
    }

    fn and(&mut self, depth: usize) -> Result<Expr, UserError> {
        let mut left = self.unary(depth)?;
        while self.is_keyword("and") {
            self.at += 1;
            left = Expr::And(Box::new(left), Box::new(self.unary(depth)?));
        }
        Ok(left)
    }

    fn unary(&mut self, depth: usize) -> Result<Expr, UserError> {
        if depth > MAX_DEPTH {
            return Err(self.error(self.place(), &format!("at most {MAX_DEPTH} nested parentheses")));
        }
        if self.is_keyword("not") {
            self.at += 1;
            return Ok(Expr::Not(Box::new(self.unary(depth + 1)?)));
        }
        if self.tokens.get(self.at).map(|t| &t.kind) == Some(&TokenKind::Open) {
            self.at += 1;
            let inner = self.or(depth + 1)?;
            if self.tokens.get(self.at).map(|t| &t.kind) != Some(&TokenKind::Close) {
                return Err(self.error(self.place(), "`)`, `and` or `or`"));
            }
            self.at += 1;
            return Ok(inner);
        }
        self.comparison()
    }

    fn comparison(&mut self) -> Result<Expr, UserError> {
        let start = self.place();
        let Some(TokenKind::Word(name)) = self.tokens.get(self.at).map(|t| t.kind.clone()) else {
            return Err(self.error(start, &format!("a field: {}", field_names().join(", "))));
        };
        let Some(field) = FIELDS.iter().find(|f| f.name == name) else {
            let e = self.error(start, &format!("a field: {}", field_names().join(", ")));
            return Err(match nearest(&name, field_names()) {
                Some(n) => e.hint(format!("did you mean `{n}`?")),
                None => e,
            });
        };
        self.at += 1;
        let at_op = self.place();
        let Some(TokenKind::Op(op)) = self.tokens.get(self.at).map(|t| t.kind.clone()) else {
            return Err(self.error(at_op, "=, !=, <, <=, >, >= or ~ (contains)"));
        };
        self.at += 1;
        let at_value = self.place();
        let value = match self.tokens.get(self.at).map(|t| t.kind.clone()) {
            Some(TokenKind::Word(w)) if w == "none" => Literal::None,
            Some(TokenKind::Word(w) | TokenKind::Quoted(w)) => Literal::Text(w),
            // A number is a text where a text is wanted.
            Some(TokenKind::Number(n)) => match field.kind {
                Kind::Number | Kind::Level => Literal::Number(n),
                _ => Literal::Text(self.written(self.at)),
            },
            _ => return Err(self.error(at_value, "a value")),
        };
        self.at += 1;
        self.check(field, op, &value, at_op, at_value)?;
        Ok(Expr::Compare { field, op, value })
    }

    fn written(&self, at: usize) -> String {
        let start = self.tokens[at].start;
        let end = self.tokens.get(at + 1).map_or(self.text.len(), |t| t.start);
        self.text[start..end].trim().to_string()
    }

    fn check(&self, field: &Field, op: &str, value: &Literal, at_op: usize, at_value: usize) -> Result<(), UserError> {
        let equality = matches!(op, "=" | "!=");
        match (field.kind, value) {
            (Kind::Level | Kind::Finding, Literal::None) => Err(self.error(at_value, "a value")),
            (_, Literal::None) if equality => Ok(()),
            (_, Literal::None) => Err(self.error(at_op, "= or != before `none`")),
            (Kind::Number | Kind::Level, Literal::Number(_)) if op != "~" => Ok(()),
            (Kind::Number | Kind::Level, Literal::Number(_)) => {
                Err(self.error(at_op, "=, !=, <, <=, > or >= for a number"))
            }
            (Kind::Number | Kind::Level, Literal::Text(_)) => Err(self.error(at_value, "a number, or `none`")),
            (Kind::Finding, Literal::Text(_)) if equality || op == "~" => Ok(()),
            (Kind::Finding, _) => Err(self.error(at_op, "= or != for a finding's code, ~ for a part of its message")),
            (Kind::Word(all), Literal::Text(word)) if equality => {
                if all.contains(&word.as_str()) {
                    return Ok(());
                }
                let e = self.error(at_value, &format!("one of {}", all.join(", ")));
                Err(match nearest(word, all.iter().copied()) {
                    Some(n) => e.hint(format!("did you mean `{n}`?")),
                    None => e,
                })
            }
            (Kind::Word(_), _) => Err(self.error(at_op, "= or != for this field")),
            (Kind::Text, Literal::Text(_)) if equality || op == "~" => Ok(()),
            (Kind::Text, _) => Err(self.error(at_op, "=, != or ~ (contains) for a text")),
        }
    }
}

#[cfg(test)]
mod tests;
