//! `troupe explain CODE`: the page of a lint rule, an objection or a fault, compiled in.

use super::args::ExplainArgs;
use super::{Answer, Done, Failure, output};
use crate::errors::{UserError, nearest};

/// The page of a code.
pub fn page(code: &str) -> Option<&'static str> {
    pages().into_iter().find(|(c, _)| *c == code).map(|(_, page)| page)
}

fn pages() -> Vec<(&'static str, &'static str)> {
    let rules = reward::lint::rules().iter().chain(reward::evidence::DOCS).map(|rule| (rule.code, rule.page));
    let objections = reward::rubric::rules().iter().map(|rule| (rule.code, rule.page));
    rules
        .chain(objections)
        .chain(sandbox::faults().iter().copied())
        .chain(crate::supervise::faults().iter().copied())
        .collect()
}

/// The first heading of a page, without its marks.
fn title(page: &str) -> &str {
    page.lines().find_map(|l| l.strip_prefix("# ")).unwrap_or("").trim()
}

pub fn explain(args: ExplainArgs) -> Done {
    let Some(code) = args.code else {
        for (code, page) in pages() {
            let title = title(page);
            output::line(if title.starts_with(code) { title.to_string() } else { format!("{code}: {title}") })?;
        }
        return Ok(Answer::Yes);
    };
    let code = code.to_uppercase();
    match page(&code) {
        Some(page) => {
            output::line(page.trim_end())?;
            Ok(Answer::Yes)
        }
        None => {
            let known: Vec<&str> = pages().into_iter().map(|(c, _)| c).collect();
            let hint = match nearest(&code, known.iter().copied()) {
                Some(c) => format!("did you mean {c}? `troupe explain` lists all codes"),
                None => "`troupe explain` lists all codes".to_string(),
            };
            Err(Failure::User(
                UserError::new("there is no such code")
                    .at("troupe explain")
                    .found(format!("`{code}`"))
                    .expected(
                        "the code of a lint rule (K001..), of an LLM judge's objection (J001..) or of a fault (F001..)",
                    )
                    .hint(hint),
            ))
        }
    }
}
