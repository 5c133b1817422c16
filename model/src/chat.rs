//! Chat templates: Jinja as transformers runs it, on minijinja.
//!
//! Same settings (blocks trimmed, loop controls) and the same extra names: `raise_exception`, `strftime_now`, a `tojson` that
//! prints like Python's, and Python's string, list and dict methods.

use std::sync::Arc;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Value, context};

use crate::error::ModelError;

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// "system", "user" or "assistant".
    pub role: String,
    pub content: String,
}

/// What `strftime_now` says, seconds since 1970, UTC: 26 July 2024. A prompt that changed with the calendar could not be
/// repeated, so the clock stands still; Llama's own templates fall back to this day.
const STANDING_CLOCK_S: i64 = 1_721_952_000;

/// A parsed template with the special tokens it may name.
#[derive(Clone, Debug)]
pub struct ChatTemplate {
    environment: Arc<Environment<'static>>,
    source: String,
    origin: String,
    special: Vec<(String, String)>,
}

impl ChatTemplate {
    /// `special`: names and texts of special tokens (`bos_token`, `eos_token`, ...). `origin`: the file it came from, for errors.
    pub fn new(source: &str, special: &[(String, String)], origin: &str) -> Result<Self, ModelError> {
        let broken = |error: Error| template_error(error, origin, "the template is not valid Jinja; correct it there");
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().map_err(broken)?;
        environment.set_syntax(syntax);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, message))
        });
        environment.add_function("strftime_now", |format: String| strftime(&format, STANDING_CLOCK_S));
        environment.add_filter("tojson", to_json);
        environment.add_template_owned("chat", plain_generation_marks(source)).map_err(broken)?;
        let (source, origin) = (source.to_string(), origin.to_string());
        Ok(Self { environment: Arc::new(environment), source, origin, special: special.to_vec() })
    }

    /// The text of a conversation; with `add_generation_prompt`, up to where the assistant begins to speak.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String, ModelError> {
        let messages: Vec<Value> = messages
            .iter()
            .map(|message| Value::from_pairs([("role", message.role.as_str()), ("content", message.content.as_str())]))
            .collect();
        let special = Value::from_pairs(self.special.iter().map(|(name, text)| (name.as_str(), text.as_str())));
        let own = context! { messages, add_generation_prompt, tools => (), documents => () };
        let refused = |error: Error| template_error(error, &self.origin, REFUSED);
        let template = self.environment.get_template("chat").map_err(refused)?;
        template.render(context! { ..own, ..special }).map_err(refused)
    }

    pub fn source(&self) -> &str {
        &self.source
    }
}

/// Troupe's prompts are one turn of the user; a template that refuses them cannot be used.
const REFUSED: &str = "the template must take a `user` turn without a system turn before it; correct it there, or put another in chat_template.jinja";

fn template_error(error: Error, origin: &str, hint: &'static str) -> ModelError {
    let line = error.line().map_or_else(String::new, |line| format!(" (line {line})"));
    let detail = error.detail().map_or_else(|| error.kind().to_string(), str::to_string);
    ModelError::Template { origin: origin.into(), reason: format!("{detail}{line}"), hint }
}

/// `{% generation %}` only marks what the assistant said, for transformers' own masks; it becomes an `if` that always holds.
fn plain_generation_marks(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(open) = rest.find("{%") {
        let Some(length) = rest[open..].find("%}") else { break };
        let tag = &rest[open..open + length + 2];
        out.push_str(&rest[..open]);
        match tag.trim_matches(['{', '%', '}', '-', '+', ' ', '\n', '\t']) {
            "generation" => out.push_str(&tag.replace("generation", "if true")),
            "endgeneration" => out.push_str(&tag.replace("endgeneration", "endif")),
            _ => out.push_str(tag),
        }
        rest = &rest[open + length + 2..];
    }
    out.push_str(rest);
    out
}

/// Python's `json.dumps(value, ensure_ascii=False, indent=...)`.
fn to_json(value: Value, options: Kwargs) -> Result<Value, Error> {
    let indent: Option<usize> = options.get("indent")?;
    // Accepted for the call's sake; only the defaults occur in templates.
    let _: Option<bool> = options.get("ensure_ascii")?;
    let _: Option<bool> = options.get("sort_keys")?;
    options.assert_all_used()?;
    let mut out = String::new();
    dump(&value, indent, 0, &mut out)?;
    Ok(Value::from_safe_string(out))
}

fn dump(value: &Value, indent: Option<usize>, depth: usize, out: &mut String) -> Result<(), Error> {
    match value.kind() {
        ValueKind::Undefined | ValueKind::None => out.push_str("null"),
        ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
        ValueKind::Number => out.push_str(&value.to_string()),
        ValueKind::String => out.push_str(&serde_json::Value::from(value.to_string()).to_string()),
        ValueKind::Map => {
            let keys: Vec<Value> = value.try_iter()?.collect();
            bracket('{', '}', keys.len(), indent, depth, out, |i, out| {
                out.push_str(&serde_json::Value::from(keys[i].to_string()).to_string());
                out.push_str(": ");
                dump(&value.get_item(&keys[i])?, indent, depth + 1, out)
            })?;
        }
        _ => {
            let items: Vec<Value> = value.try_iter()?.collect();
            bracket('[', ']', items.len(), indent, depth, out, |i, out| dump(&items[i], indent, depth + 1, out))?;
        }
    }
    Ok(())
}

fn bracket(
    open: char,
    close: char,
    count: usize,
    indent: Option<usize>,
    depth: usize,
    out: &mut String,
    mut item: impl FnMut(usize, &mut String) -> Result<(), Error>,
) -> Result<(), Error> {
    let line = |depth: usize, out: &mut String| {
        if let Some(width) = indent {
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', width * depth));
        }
    };
    out.push(open);
    for i in 0..count {
        if i > 0 {
            out.push_str(if indent.is_some() { "," } else { ", " });
        }
        line(depth + 1, out);
        item(i, out)?;
    }
    if count > 0 {
        line(depth, out);
    }
    out.push(close);
    Ok(())
}

/// The directives templates use; others stay as they are.
fn strftime(format: &str, unix_s: i64) -> String {
    const MONTHS: [&str; 12] = [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ];
    const DAYS: [&str; 7] = ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];
    let (days, second) = (unix_s.div_euclid(86_400), unix_s.rem_euclid(86_400));
    let (year, month, day) = civil(days);
    let (name, weekday) = (MONTHS[month as usize - 1], DAYS[days.rem_euclid(7) as usize]);
    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        match chars.next() {
            Some('Y') => out.push_str(&year.to_string()),
            Some('y') => out.push_str(&format!("{:02}", year.rem_euclid(100))),
            Some('m') => out.push_str(&format!("{month:02}")),
            Some('d') => out.push_str(&format!("{day:02}")),
            Some('B') => out.push_str(name),
            Some('b') => out.push_str(&name[..3]),
            Some('A') => out.push_str(weekday),
            Some('a') => out.push_str(&weekday[..3]),
            Some('H') => out.push_str(&format!("{:02}", second / 3600)),
            Some('M') => out.push_str(&format!("{:02}", second / 60 % 60)),
            Some('S') => out.push_str(&format!("{:02}", second % 60)),
            Some('F') => out.push_str(&format!("{year}-{month:02}-{day:02}")),
            Some('%') => out.push('%'),
            Some(other) => out.extend(['%', other]),
            None => out.push('%'),
        }
    }
    out
}

/// Year, month, day of a day count since 1970 (H. Hinnant, "chrono-compatible low-level date algorithms").
fn civil(days: i64) -> (i64, i64, i64) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    (yoe + era * 400 + i64::from(month <= 2), month, doy - (153 * mp + 2) / 5 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_stands_at_26_july_2024() {
        assert_eq!(strftime("%d %b %Y, %A %H:%M:%S %%", STANDING_CLOCK_S), "26 Jul 2024, Friday 00:00:00 %");
        assert_eq!(strftime("%F", 951_782_400), "2000-02-29");
    }

    #[test]
    fn raised_exceptions_carry_the_templates_own_words() {
        let template =
            ChatTemplate::new("a\n{{ raise_exception('roles must alternate') }}", &[], "a/b.jinja").expect("parses");
        let error = template.render(&[], false).expect_err("raises").to_string();
        assert!(error.contains("roles must alternate (line 2)"), "{error}");
        assert!(error.starts_with("a/b.jinja: chat template: ") && error.contains("\n  hint: "), "{error}");
    }
}
