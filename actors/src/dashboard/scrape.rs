//! `/metrics` in Prometheus' text format: the ledger, verdicts, faults, the last step's numbers.

use std::fmt::Write as _;
use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};

use super::Shared;
use super::api::TURN;
use crate::inspect::overview::Overview;

pub async fn metrics(State(shared): State<Arc<Shared>>) -> Response {
    let Ok(Ok(_turn)) = tokio::time::timeout(TURN, shared.questions.acquire()).await else {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    };
    let run = shared.run.clone();
    match tokio::task::spawn_blocking(move || run.overview()).await {
        Ok(Ok(overview)) => {
            ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text(&overview)).into_response()
        }
        Ok(Err(error)) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

fn text(overview: &Overview) -> String {
    let mut out = String::new();
    let mut family = |name: &str, kind: &str, help: &str, samples: Vec<(String, f64)>| {
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (labels, value) in samples {
            let _ = writeln!(out, "{name}{labels} {value}");
        }
    };
    let ledger = overview.ledger.iter().flat_map(|(phase, endings)| {
        endings.iter().map(move |(ending, n)| (labels(&[("phase", phase), ("ending", ending)]), *n as f64))
    });
    family("troupe_rollouts", "gauge", "Rollouts by phase and ending; in_flight without one.", ledger.collect());
    let verdicts = overview.verdicts.iter().map(|(verdict, n)| (labels(&[("verdict", verdict)]), *n as f64));
    family("troupe_verdicts", "gauge", "Training answers by verdict.", verdicts.collect());
    let faults = overview.faults.iter().map(|(code, n)| (labels(&[("code", code)]), *n as f64));
    family("troupe_faults_total", "counter", "Faults of ours by code.", faults.collect());
    let hacks = overview.hacks.classes.iter().map(|(class, n)| (labels(&[("class", class)]), *n as f64));
    family("troupe_hacks", "gauge", "Training answers by class of hack; unclear ones are none.", hacks.collect());
    let rate = overview.hacks.rate().into_iter().map(|rate| (String::new(), rate));
    family("troupe_hack_rate", "gauge", "Share of training answers that are hacks.", rate.collect());
    family("troupe_alarms", "gauge", "Alarms that are on.", vec![(String::new(), overview.alarms.len() as f64)]);
    if let Some(step) = overview.steps.x.last() {
        family("troupe_step", "gauge", "Optimizer steps that are done.", vec![(String::new(), *step)]);
    }
    for (name, value) in &overview.last {
        let safe: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
        let help = "Of the last step; docs/corrections.md lists them.";
        family(&format!("troupe_{safe}"), "gauge", help, vec![(String::new(), *value)]);
    }
    out
}

fn labels(pairs: &[(&str, &str)]) -> String {
    let escape = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    let pairs: Vec<String> = pairs.iter().map(|(name, value)| format!("{name}=\"{}\"", escape(value))).collect();
    format!("{{{}}}", pairs.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_cannot_end_its_quotes() {
        assert_eq!(labels(&[("code", "a\"b\\c\nd")]), "{code=\"a\\\"b\\\\c\\nd\"}");
    }
}
