//! Prints how many candidates a second one core extracts and lints, and what was found: `cargo run --release -p reward
//! --example lint_speed -- FILE..` (`.md` and `.txt` are raw answers, everything else is Python).

use std::time::Instant;

use reward::extract::{extract, from_python};
use reward::lint::lint;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut texts = Vec::new();
    for path in std::env::args().skip(1) {
        texts.push((path.clone(), std::fs::read_to_string(path)?));
    }
    let candidate = |path: &str, text: &str| {
        if path.ends_with(".md") || path.ends_with(".txt") { extract(text) } else { from_python(text) }
    };
    for (path, text) in &texts {
        match candidate(path, text) {
            Ok(candidate) => {
                for finding in lint(&candidate.source, None).findings {
                    println!("{path}:{}: {} {:?} {}", finding.line, finding.code, finding.severity, finding.message);
                }
            }
            Err(error) => println!("{path}: {error}"),
        }
    }
    let start = Instant::now();
    let mut done = 0u32;
    while !texts.is_empty() && start.elapsed().as_secs_f64() < 1.0 {
        for (path, text) in &texts {
            if let Ok(candidate) = candidate(path, text) {
                std::hint::black_box(lint(&candidate.source, None));
            }
            done += 1;
        }
    }
    println!("{:.0} candidates/s on one core", f64::from(done) / start.elapsed().as_secs_f64());
    Ok(())
}
