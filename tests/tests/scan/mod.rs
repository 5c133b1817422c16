//! Finds code of a pure room that reaches for the world: files, network, processes, threads, clocks, `async`, randomness.
//!
//! It reads text, not Rust: literals and comments are blanked, items under `#[cfg(test)]` skipped, then whole words are
//! looked for. That is enough against slips; somebody who wants to cheat it can.

/// Modules of `std` that are the world: `std::fs`, `fs::read`, `use std::{fs, thread}`.
const MODULES: [&str; 5] = ["fs", "net", "process", "thread", "env"];
const WORDS: [&str; 15] = [
    "Instant",
    "SystemTime",
    "tokio",
    "ractor",
    "burn",
    "thread_rng",
    "OsRng",
    "async",
    "File",
    "OpenOptions",
    "TcpStream",
    "println",
    "eprintln",
    "print",
    "eprint",
];

/// Line (from 1) and word of every find.
pub fn world(source: &str) -> Vec<(usize, String)> {
    let code = without_tests(&blank(source));
    let words = words(&code);
    let mut found = Vec::new();
    for (i, (at, word)) in words.iter().enumerate() {
        let before = |n: usize| i.checked_sub(n).map_or("", |j| words[j].1);
        let after = |n: usize| words.get(i + n).map_or("", |w| w.1);
        let macro_call = !word.contains("print") || after(1) == "!";
        // A path that starts with the module, or a name in a `use` of std; a field or a variable called `env` is neither.
        let own = before(1) == "::" && before(2) != "std" && before(2) != "{";
        let path = !own && after(1) == "::";
        let imported = before(1) == "::" && before(2) == "std" || in_group_of_std(&words, i);
        if WORDS.contains(word) && macro_call || MODULES.contains(word) && (path || imported) {
            found.push((code[..*at].matches('\n').count() + 1, word.to_string()));
        }
    }
    found
}

/// Whether word `i` lies directly in the braces of `std::{..}`.
fn in_group_of_std(words: &[(usize, &str)], i: usize) -> bool {
    let mut depth = 0;
    for j in (0..i).rev() {
        match words[j].1 {
            "}" => depth += 1,
            "{" if depth > 0 => depth -= 1,
            "{" => {
                let starts = matches!(words[i - 1].1, "{" | ",");
                return starts && j >= 2 && words[j - 1].1 == "::" && words[j - 2].1 == "std";
            }
            ";" => return false,
            _ => {}
        }
    }
    false
}

/// Identifiers, `::` and single signs, with their offsets.
fn words(code: &str) -> Vec<(usize, &str)> {
    let mut out = Vec::new();
    let mut at = 0;
    while let Some(c) = code[at..].chars().next() {
        let rest = &code[at..];
        let ident = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        let len = if ident > 0 {
            ident
        } else if rest.starts_with("::") {
            2
        } else {
            c.len_utf8()
        };
        if !c.is_whitespace() {
            out.push((at, &rest[..len]));
        }
        at += len;
    }
    out
}

/// The same text with the insides of comments, strings and characters as spaces; line breaks stay.
pub fn blank(source: &str) -> String {
    let chars: Vec<char> = source.chars().collect();
    let mut out = String::with_capacity(source.len());
    let mut i = 0;
    let skip = |out: &mut String, from: usize, to: usize| {
        out.extend(chars[from..to.min(chars.len())].iter().map(|c| if *c == '\n' { '\n' } else { ' ' }));
        to.min(chars.len())
    };
    let find = |from: usize, end: &dyn Fn(usize) -> bool| (from..chars.len()).find(|j| end(*j)).unwrap_or(chars.len());
    while i < chars.len() {
        let next = |n: usize| chars.get(i + n).copied().unwrap_or(' ');
        let word_before = i > 0 && (chars[i - 1].is_alphanumeric() || chars[i - 1] == '_');
        if chars[i] == '/' && next(1) == '/' {
            i = skip(&mut out, i, find(i, &|j| chars[j] == '\n'));
        } else if chars[i] == '/' && next(1) == '*' {
            let (mut depth, mut j) = (1, i + 2);
            while j < chars.len() && depth > 0 {
                match (chars[j], chars.get(j + 1)) {
                    ('*', Some('/')) => (depth, j) = (depth - 1, j + 1),
                    ('/', Some('*')) => (depth, j) = (depth + 1, j + 1),
                    _ => {}
                }
                j += 1;
            }
            i = skip(&mut out, i, j);
        } else if let Some(hashes) = raw_hashes(&chars, i).filter(|_| !word_before) {
            let end = |j: usize| chars[j] == '"' && (1..=hashes).all(|n| chars.get(j + n) == Some(&'#'));
            let open = find(i, &|j| chars[j] == '"');
            i = skip(&mut out, i, find(open + 1, &end) + 1 + hashes);
        } else if chars[i] == '"' {
            let mut j = i + 1;
            while j < chars.len() && chars[j] != '"' {
                j += if chars[j] == '\\' { 2 } else { 1 };
            }
            i = skip(&mut out, i, j + 1);
        } else if chars[i] == '\'' && (next(1) == '\\' || next(2) == '\'') {
            // A character; anything else after a quote is a lifetime.
            let from = if next(1) == '\\' { i + 3 } else { i + 2 };
            i = skip(&mut out, i, find(from, &|j| chars[j] == '\'') + 1);
        } else {
            out.push(chars[i]);
            i += 1;
        }
    }
    out
}

/// The number of `#` of a raw string that begins here.
fn raw_hashes(chars: &[char], i: usize) -> Option<usize> {
    let start = match (chars[i], chars.get(i + 1)) {
        ('r', _) => i + 1,
        ('b', Some('r')) => i + 2,
        _ => return None,
    };
    let hashes = chars[start..].iter().take_while(|c| **c == '#').count();
    (chars.get(start + hashes) == Some(&'"')).then_some(hashes)
}

/// Blanked code without the items that only tests compile: from the attribute to the end of what it stands before.
pub fn without_tests(code: &str) -> String {
    const MARK: &str = "#[cfg(test)]";
    let mut out = String::with_capacity(code.len());
    let mut rest = code;
    while let Some(start) = rest.find(MARK) {
        out.push_str(&rest[..start]);
        let (mut depth, mut end) = (0usize, rest.len());
        for (at, c) in rest.char_indices().skip_while(|(at, _)| *at < start + MARK.len()) {
            match c {
                '{' | '(' | '[' => depth += 1,
                '}' | ')' | ']' => depth = depth.saturating_sub(1),
                _ => {}
            }
            if depth == 0 && (c == '}' || c == ';') {
                end = at + 1;
                break;
            }
        }
        out.extend(rest[start..end].chars().filter(|c| *c == '\n'));
        rest = &rest[end..];
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::world;

    /// Each of these passed the scanner this one replaces, or could pass a careless one. Planted and seen to fail: lines with a
    /// quote skipped, everything after the first `#[cfg(test)]` skipped, and no look into `std::{..}`.
    #[test]
    fn what_reaches_for_the_world_is_found() {
        for (line, code) in [
            (1, r#"let t = std::fs::read_to_string("x");"#),
            (1, "use std::{fs, thread};"),
            (1, "use std::{collections::{BTreeMap, BTreeSet}, env};"),
            (3, "use std::{\n    collections::BTreeMap,\n    process::Command,\n};"),
            (1, "fs::write(p, b)"),
            (1, "let h = thread::spawn(f);"),
            (1, "let now = time::Instant::now();"),
            (1, "use std::time::{Duration, SystemTime};"),
            (4, "#[cfg(test)]\nmod tests { fn f() { std::fs::read(p); } }\n\nfn g() { std::env::var(n); }"),
            (2, "#[cfg(test)] use std::fs;\nfn g() { std::net::lookup(n); }"),
            (1, r##"f(r#"quoted " inside"#, std::process::id())"##),
            (1, r#"let c = '"'; std::fs::read(p); let d = '"';"#),
            (1, r#"let s = "\\"; println!("x");"#),
            (1, "fn f<'a>(x: &'a str) { std::fs::read(x) }"),
            (1, "pub async fn f() {}"),
        ] {
            let found = world(code);
            let mut lines: Vec<usize> = found.iter().map(|f| f.0).collect();
            lines.dedup();
            assert_eq!(lines, [line], "{code}: {found:?}");
        }
    }

    #[test]
    fn what_only_speaks_of_the_world_is_not() {
        for code in [
            r#"const NAMES: [&str; 2] = ["std::fs", "os.environ"];"#,
            "// std::fs is for others\nlet x = 1; /* thread::spawn /* nested */ fs::read */",
            "#[cfg(test)]\nmod tests {\n    fn f() { std::fs::read(\"}\"); }\n}\nfn g() {}",
            "struct Env { env: Names }\nfn f(env: &Env) { env.env.get(1); process(env); }",
            "use crate::{value, env_of};\nuse std::{collections::BTreeMap, fmt};",
            r##"let doc = r#"use std::fs; "println!" "#;"##,
            "let c = '\\''; let l: &'static str = \"fs::read\";",
            "fn instant_noodles(thread: u8) -> u8 { thread }",
        ] {
            assert_eq!(world(code), [], "{code}");
        }
    }
}
