//! The rules, one a file. A rule reads facts and adds findings; the list below is the order in `troupe explain`.

mod k001;
mod k002;
mod k003;
mod k004;
mod k005;
mod k006;
mod k007;
mod k008;
mod k009;
mod k010;
mod k011;
mod k012;
mod k013;
mod k014;
mod k015;
mod k016;
mod k017;
mod k018;
mod k019;
mod k020;
mod k021;
mod k022;
mod k023;
mod k024;
mod k025;
mod k026;
mod k027;
mod k028;
mod k029;
mod k030;
mod k031;
mod k032;
mod k033;
mod k034;

use std::collections::BTreeSet;

use rollout::outcome::{Finding, Severity};

use super::Known;
use super::engine::Engine;
use super::engine::features::Features;
use super::engine::trace::{Fact, Seen, Stage};
use super::engine::value::FuncId;

/// A rule's page, for `troupe explain`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RuleDoc {
    pub code: &'static str,
    pub title: &'static str,
    pub page: &'static str,
}

/// One rule.
#[derive(Clone, Copy)]
pub struct Rule {
    pub code: &'static str,
    pub title: &'static str,
    /// Markdown.
    pub page: &'static str,
    pub check: fn(&mut Known<'_>, &mut Vec<Finding>),
}

/// All rules.
pub const RULES: &[Rule] = &[
    k001::RULE,
    k002::RULE,
    k003::RULE,
    k004::RULE,
    k005::RULE,
    k006::RULE,
    k007::RULE,
    k008::RULE,
    k009::RULE,
    k010::RULE,
    k011::RULE,
    k012::RULE,
    k013::RULE,
    k014::RULE,
    k015::RULE,
    k016::RULE,
    k017::RULE,
    k018::RULE,
    k019::RULE,
    k020::RULE,
    k021::RULE,
    k022::RULE,
    k023::RULE,
    k024::RULE,
    k025::RULE,
    k026::RULE,
    k027::RULE,
    k028::RULE,
    k029::RULE,
    k030::RULE,
    k031::RULE,
    k032::RULE,
    k033::RULE,
    k034::RULE,
];

const DOCS: [RuleDoc; RULES.len()] = {
    let mut docs = [RuleDoc { code: "", title: "", page: "" }; RULES.len()];
    let mut i = 0;
    while i < RULES.len() {
        docs[i] = RuleDoc { code: RULES[i].code, title: RULES[i].title, page: RULES[i].page };
        i += 1;
    }
    docs
};

/// All rules' pages, by code.
pub fn rules() -> &'static [RuleDoc] {
    &DOCS
}

/// A finding.
pub fn finding(code: &str, severity: Severity, line: u32, message: impl Into<String>) -> Finding {
    Finding { code: code.to_owned(), severity, line, message: message.into() }
}

fn add(findings: &mut Vec<Finding>, code: &str, severity: Severity, line: u32, message: impl Into<String>) {
    findings.push(finding(code, severity, line, message));
}

fn reject(findings: &mut Vec<Finding>, code: &str, line: u32, message: impl Into<String>) {
    add(findings, code, Severity::Reject, line, message);
}

fn warn(findings: &mut Vec<Finding>, code: &str, line: u32, message: impl Into<String>) {
    add(findings, code, Severity::Warn, line, message);
}

fn note(findings: &mut Vec<Finding>, code: &str, line: u32, message: impl Into<String>) {
    add(findings, code, Severity::Note, line, message);
}

/// What the kernels behind the result do to data; `None` where some of it is not understood.
fn work(known: &mut Known<'_>) -> Option<Features> {
    let engine = &mut known.ran.engine;
    let launched = || {
        forward(engine).filter_map(|s| match &s.fact {
            Fact::Launch { kernels } => Some(kernels.iter().copied()),
            _ => None,
        })
    };
    let kernels: BTreeSet<FuncId> = engine.flows.contributors().unwrap_or_else(|| launched().flatten().collect());
    let mut all = Features::NONE;
    for kernel in &kernels {
        let facts = engine.kernel_facts(*kernel);
        if facts.opaque || !facts.any_load {
            return None;
        }
        all |= facts.features;
    }
    (!kernels.is_empty()).then_some(all)
}

/// What was seen while forward ran.
fn forward<'a>(engine: &'a Engine<'_>) -> impl Iterator<Item = &'a Seen> {
    engine.seen.iter().filter(|s| s.stage == Stage::Forward)
}
