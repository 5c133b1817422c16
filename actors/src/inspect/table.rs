//! The short columns of all rollouts, in memory: what lists, filters, sorting and counts need. About 150 bytes a rollout.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use reward::hacks;
use rusqlite::Row;
use rusqlite::types::ValueRef;

use super::totals::{Facts, Totals};
use crate::store::StoreError;

/// The columns that are read, in the order of the SELECT; `N` numbers, `W` words. The names are the store's, but for the last three:
/// the codes of a ruling's findings, sorted, each with a comma before and after it; the class of a hack; the measured speed-up.
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
    (FINDINGS, 'W'),
    (HACK, 'W'),
    (SPEEDUP, 'N'),
];
/// The codes in a ruling.
pub const FINDINGS: &str = "findings";
/// `reward::hacks`.
pub const HACK: &str = "hack";
/// Of what passed and was timed.
pub const SPEEDUP: &str = "speedup";
/// A report begins with its outcome: as much of it as tells a speed-up or a reason's code. With a finding of K101 it was the sandbox that
/// rejected, and in old stores the reason may be the candidate's own words: what they spell is not looked at.
const HEAD: &str = r#"CASE verdict WHEN 'passed' THEN substr(report, 1, 96) WHEN 'rejected' THEN
 CASE WHEN instr(report, '"code":"K101"') > 0 THEN '{"outcome":{"verdict":"rejected","reason":"K101' ELSE substr(report, 1, 96) END END"#;
const PASSED: &str = r#"{"outcome":{"verdict":"passed","speedup":"#;
const REJECTED: &str = r#"{"outcome":{"verdict":"rejected","reason":""#;
/// In a ruling, whose text holds no other with bare quotes.
const REASON: &str = r#""outcome":{"verdict":"rejected","reason":""#;
/// Before a code in a ruling's JSON. Only a key of the JSON itself has bare quotes: the candidate's text in it is escaped.
pub const CODE_KEY: &str = "\"code\":\"";

/// The columns for a SELECT, the id first.
pub fn select_list() -> String {
    let stored = COLUMNS.iter().map(|(name, _)| match *name {
        FINDINGS => "ruling",
        HACK => HEAD,
        SPEEDUP => "NULL",
        name => name,
    });
    std::iter::once("id").chain(stored).collect::<Vec<_>>().join(", ")
}

/// The word of the findings' column for a ruling's JSON, into `codes`: sorted, each once.
fn findings(ruling: &str, codes: &mut String) {
    codes.clear();
    let mut found: Vec<&str> = Vec::new();
    for (at, key) in ruling.match_indices(CODE_KEY) {
        let rest = &ruling[at + key.len()..];
        found.push(&rest[..rest.find('"').unwrap_or(rest.len())]);
    }
    found.sort_unstable();
    found.dedup();
    for code in found {
        codes.push(',');
        codes.push_str(code);
    }
    codes.push(',');
}

/// The class of what was rejected, or could not be as fast: from the report where one rejected it, else from the ruling.
fn hack(verdict: Option<&str>, ruling: Option<&str>, head: Option<&str>) -> Option<&'static str> {
    match verdict? {
        "implausible" => Some(hacks::TIMING),
        "rejected" => {
            let reason = head.and_then(|head| head.strip_prefix(REJECTED));
            let reason = reason.or_else(|| ruling?.split_once(REASON).map(|(_, reason)| reason))?;
            Some(hacks::class_of(hacks::code_of(reason)).unwrap_or(hacks::UNCLEAR))
        }
        _ => None,
    }
}

fn speedup(head: Option<&str>) -> f64 {
    let number = head.and_then(|head| head.strip_prefix(PASSED)).and_then(|rest| rest.split('}').next());
    number.and_then(|number| number.parse().ok()).unwrap_or(f64::NAN)
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
    /// The code that was given out last.
    last: u32,
}

impl Words {
    fn new() -> Words {
        Words { codes: Vec::new(), texts: Vec::new(), known: HashMap::new(), last: 0 }
    }

    /// Code 0 is the word that is not known.
    fn code(&mut self, text: Option<&str>) -> u32 {
        let Some(text) = text else { return 0 };
        // Most words are that of the row before.
        if self.text(self.last) == Some(text) {
            return self.last;
        }
        self.last = self.new_code(text);
        self.last
    }

    fn new_code(&mut self, text: &str) -> u32 {
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
        self.text(self.codes[row])
    }

    /// The word of a code; code 0 has none.
    pub fn text(&self, code: u32) -> Option<&str> {
        self.texts.get((code as usize).checked_sub(1)?).map(String::as_str)
    }

    /// The code of a word that occurs.
    pub fn find(&self, text: &str) -> Option<u32> {
        self.known.get(text).copied()
    }
}

/// Ids are our own numbers: nobody chooses them so that they collide.
#[derive(Default)]
pub struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|b| self.write_u64(u64::from(*b)));
    }

    fn write_u64(&mut self, id: u64) {
        self.0 = (self.0 ^ id).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(26);
    }
}

/// All rollouts, in the order in which they were met.
pub struct Table {
    ids: Vec<u64>,
    rows: HashMap<u64, u32, BuildHasherDefault<IdHasher>>,
    columns: Vec<Column>,
    /// For a number that is asked for and is no column.
    none: Vec<f64>,
    totals: Totals,
    /// Where the columns are that are counted.
    counted: Counted,
    /// Room for one ruling's codes.
    codes: String,
}

struct Counted {
    phase: usize,
    ending: usize,
    state: usize,
    verdict: usize,
    ended_at: usize,
    tokens: usize,
    policy: usize,
    hack: usize,
    findings: usize,
}

impl Counted {
    fn new() -> Counted {
        // Each is in the list above.
        let at = |name: &str| COLUMNS.iter().position(|(n, _)| *n == name).unwrap_or_default();
        Counted {
            phase: at("phase"),
            ending: at("ending"),
            state: at("state"),
            verdict: at("verdict"),
            ended_at: at("ended_at"),
            tokens: at("n_tokens"),
            policy: at("policy_oldest"),
            hack: at(HACK),
            findings: at(FINDINGS),
        }
    }
}

impl Default for Table {
    fn default() -> Self {
        let column = |(_, kind): &(&str, char)| match kind {
            'N' => Column::Number(Vec::new()),
            _ => Column::Word(Words::new()),
        };
        Table {
            ids: Vec::new(),
            rows: HashMap::default(),
            columns: COLUMNS.iter().map(column).collect(),
            none: Vec::new(),
            totals: Totals::default(),
            counted: Counted::new(),
            codes: String::new(),
        }
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

    pub fn totals(&self) -> &Totals {
        &self.totals
    }

    fn facts(&self, row: usize) -> Facts {
        let word = |at: usize| match &self.columns[at] {
            Column::Word(words) => words.codes[row],
            Column::Number(_) => 0,
        };
        let number = |at: usize| match &self.columns[at] {
            Column::Number(all) if !all[row].is_nan() => Some(all[row]),
            _ => None,
        };
        let c = &self.counted;
        Facts {
            phase: word(c.phase),
            ending: word(c.ending),
            state: word(c.state),
            verdict: word(c.verdict),
            ended_s: number(c.ended_at).map(|ms| (ms / 1000.0) as u64),
            tokens: number(c.tokens).map_or(0, |n| n as u64),
            policy: number(c.policy).map(|n| n as u64),
            hack: word(c.hack),
        }
    }

    /// Takes a row of `select_list` in; true when something was new.
    pub fn take(&mut self, row: &Row<'_>) -> Result<bool, StoreError> {
        let id = row.get::<_, i64>(0)? as u64;
        let at = self.rows.get(&id).map(|at| *at as usize);
        let mut changed = at.is_none();
        let before = at.map(|at| self.facts(at));
        let mut codes = std::mem::take(&mut self.codes);
        let text = |at: usize| row.get_ref(at + 1)?.as_str_or_null().map_err(rusqlite::Error::from);
        let (verdict, ruling) = (text(self.counted.verdict)?, text(self.counted.findings)?);
        let head = text(self.counted.hack)?;
        for (n, column) in self.columns.iter_mut().enumerate() {
            match column {
                Column::Number(all) => {
                    // REAL and INTEGER alike; ids, counts and times are far below 2^53.
                    let value = match row.get_ref(n + 1)? {
                        ValueRef::Integer(value) => value as f64,
                        ValueRef::Real(value) => value,
                        _ if COLUMNS[n].0 == SPEEDUP => speedup(head),
                        _ => f64::NAN,
                    };
                    match at {
                        Some(at) => {
                            changed |= all[at].to_bits() != value.to_bits();
                            all[at] = value;
                        }
                        None => all.push(value),
                    }
                }
                Column::Word(words) => {
                    let mut value = row.get_ref(n + 1)?.as_str_or_null().map_err(rusqlite::Error::from)?;
                    if COLUMNS[n].0 == FINDINGS
                        && let Some(ruling) = value
                    {
                        findings(ruling, &mut codes);
                        value = Some(&codes);
                    } else if COLUMNS[n].0 == HACK {
                        value = hack(verdict, ruling, head);
                    }
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
        self.codes = codes;
        let at = at.unwrap_or_else(|| {
            self.rows.insert(id, self.ids.len() as u32);
            self.ids.push(id);
            self.ids.len() - 1
        });
        let after = self.facts(at);
        if before != Some(after) {
            if let Some(before) = before {
                self.totals.remove(before);
            }
            self.totals.add(after);
        }
        Ok(changed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_rejected_an_answer_says_what_class_of_hack_it_is() {
        let reject = r#"{"Reject":{"candidate":{"source":"","digest":"a"},"findings":[],"outcome":{"verdict":"rejected","reason":"K005 (line 3): \"outcome\""}}}"#;
        let admit = r#"{"Admit":{"candidate":{"source":"","digest":"a"},"findings":[]}}"#;
        let late = r#"{"outcome":{"verdict":"rejected","reason":"K107: calls are counted"#;
        let unnamed = r#"{"outcome":{"verdict":"rejected","reason":"forward 1 launched no kernel""#;
        let passed = r#"{"outcome":{"verdict":"passed","speedup":1.25},"launches":[]"#;
        let none = r#"{"outcome":{"verdict":"passed","speedup":null},"launches":[]"#;
        assert_eq!(hack(Some("rejected"), Some(reject), None), Some("delegation"));
        assert_eq!(hack(Some("rejected"), Some(admit), Some(late)), Some("conditional"));
        assert_eq!(hack(Some("rejected"), Some(admit), Some(unnamed)), Some("decoy"));
        assert_eq!(hack(Some("implausible"), Some(admit), None), Some("timing"));
        assert_eq!(hack(Some("passed"), Some(admit), Some(passed)), None);
        assert_eq!(hack(None, None, None), None);
        assert_eq!(speedup(Some(passed)), 1.25);
        assert!(speedup(Some(none)).is_nan() && speedup(Some(late)).is_nan() && speedup(None).is_nan());
    }

    /// In old stores the sandbox's reason may be the candidate's own words. The head of the report alone would not do.
    #[test]
    fn a_candidate_does_not_choose_its_class_nor_end_a_viewer() {
        let report = |reason: &str, code: &str| {
            let finding = serde_json::json!({ "code": code, "severity": "reject", "line": 0, "message": reason });
            let reason = serde_json::json!(reason);
            let outcome = format!("{{\"verdict\":\"rejected\",\"reason\":{reason}}}");
            format!("{{\"outcome\":{outcome},\"findings\":[{finding}],\"log_tail\":{:?}}}", "\"code\":\"K101\"")
        };
        let db = rusqlite::Connection::open_in_memory().unwrap();
        let head = |report: &str| -> Option<String> {
            let sql = format!("SELECT {HEAD} FROM (SELECT 'rejected' AS verdict, ?1 AS report)");
            db.query_row(&sql, [report], |row| row.get(0)).unwrap()
        };
        for own_words in ["K003: no program", "\u{e9}\u{e9}\u{e9}\u{e9}", "\u{e9}", "", "J\u{661}01"] {
            let report = report(own_words, "K101");
            assert_eq!(hack(Some("rejected"), None, head(&report).as_deref()), Some("decoy"), "{own_words}");
            // Without its finding, too, nothing of it ends the viewer.
            hack(Some("rejected"), None, Some(&report));
        }
        let ours = report("K107: calls are counted", "K107");
        assert_eq!(hack(Some("rejected"), None, head(&ours).as_deref()), Some("conditional"));
    }

    #[test]
    fn the_codes_of_a_ruling_are_one_word_and_text_that_spells_one_is_none() {
        let mut codes = String::new();
        for (ruling, word) in [
            ("{}", ","),
            (r#"{"findings":[{"code":"K007"},{"code":"K001"},{"code":"K007"}]}"#, ",K001,K007,"),
            (r#"{"source":"x = \"code\":\"K007\""}"#, ","),
            (r#"{"code":"K0"#, ",K0,"),
        ] {
            findings(ruling, &mut codes);
            assert_eq!(codes, word, "{ruling}");
        }
    }
}
