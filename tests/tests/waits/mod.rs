//! Finds calls of actors that may wait for ever: `call` and its like without a `Some(..)` timeout, and the macros that take none.
//!
//! It reads text, as `scan` does.

use super::scan;

/// Methods of ractor whose last argument is the timeout.
const METHODS: [&str; 4] = ["call", "call_and_forward", "stop_and_wait", "drain_and_wait"];
/// Macros of ractor without one.
const MACROS: [&str; 2] = ["call", "forward"];

/// Line (from 1) and name of every find.
pub fn endless(source: &str) -> Vec<(usize, String)> {
    let code = scan::without_tests(&scan::blank(source));
    let mut found = Vec::new();
    let mut find = |at: usize, name: &str| found.push((code[..at].matches('\n').count() + 1, name.to_string()));
    for name in METHODS {
        for (at, text) in code.match_indices(&format!(".{name}(")) {
            let last = arguments(&code[at + text.len()..]).pop().unwrap_or_default();
            if !last.starts_with("Some(") {
                find(at, name);
            }
        }
    }
    for name in MACROS {
        for (at, text) in code.match_indices(&format!("{name}!")) {
            let whole = !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
            if whole && code[at + text.len()..].trim_start().starts_with(['(', '[', '{']) {
                find(at, text);
            }
        }
    }
    found.sort();
    found
}

/// What stands between the commas up to the end of the call that `code` is inside of.
fn arguments(code: &str) -> Vec<String> {
    let (mut depth, mut all) = (0, vec![String::new()]);
    for c in code.chars() {
        match c {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' if depth == 0 => break,
            ')' | ']' | '}' => depth -= 1,
            ',' if depth == 0 => {
                all.push(String::new());
                continue;
            }
            _ => {}
        }
        if let Some(last) = all.last_mut() {
            last.push(c);
        }
    }
    let mut all: Vec<String> = all.iter().map(|a| a.trim().to_string()).collect();
    // A comma at the end.
    all.retain(|a| !a.is_empty());
    all
}

#[test]
fn what_waits_for_ever_is_found() {
    let source = "
fn f() {
    a.call(Msg::Ask, Some(ANSWER)).await;
    a.call(|reply| Msg::Ask(1, reply), None).await;
    a.stop_and_wait(None, None).await;
    a.stop_and_wait(None, Some(LET_GO)).await;
    a.call(
        Msg::Ask { of: g(1, 2) },
        Some(Duration::from_secs(1)),
    ).await;
    ractor::call!(a, Msg::Ask);
    call_t!(a, Msg::Ask, 100);
    // a.call(Msg::Ask, None)
    let text = \"a.call(Msg::Ask, None)\";
    a.call(Msg::Ask, limit).await;
}
#[cfg(test)]
mod tests { fn t() { a.call(Msg::Ask, None); } }
";
    let lines: Vec<usize> = endless(source).into_iter().map(|(line, _)| line).collect();
    assert_eq!(lines, [4, 5, 11, 15]);
}
