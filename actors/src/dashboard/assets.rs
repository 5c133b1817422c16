//! The pages, compiled in: nothing is fetched from anywhere else, so they work offline. `uPlot` (MIT) draws the curves.

use axum::extract::Path;
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};

pub const LOGIN: &str = include_str!("assets/login.html");
const INDEX: &str = include_str!("assets/index.html");

macro_rules! files {
    ($($name:literal: $kind:literal),* $(,)?) => {
        &[$(($name, $kind, include_str!(concat!("assets/", $name)))),*]
    };
}

/// Name, content type, text.
const FILES: &[(&str, &str, &str)] = files!(
    "app.css": "text/css; charset=utf-8",
    "uplot.css": "text/css; charset=utf-8",
    "icon.svg": "image/svg+xml",
    "uplot.js": "text/javascript; charset=utf-8",
    "uplot-license.txt": "text/plain; charset=utf-8",
    "app.js": "text/javascript; charset=utf-8",
    "dom.js": "text/javascript; charset=utf-8",
    "python.js": "text/javascript; charset=utf-8",
    "plot.js": "text/javascript; charset=utf-8",
    "overview.js": "text/javascript; charset=utf-8",
    "rollouts.js": "text/javascript; charset=utf-8",
    "rollout.js": "text/javascript; charset=utf-8",
    "tokens.js": "text/javascript; charset=utf-8",
    "tasks.js": "text/javascript; charset=utf-8",
    "lanes.js": "text/javascript; charset=utf-8",
    "crew.js": "text/javascript; charset=utf-8",
);

pub async fn index() -> Response {
    ([(CONTENT_TYPE, "text/html; charset=utf-8")], INDEX).into_response()
}

pub async fn file(Path(name): Path<String>) -> Response {
    match FILES.iter().find(|(known, ..)| *known == name) {
        Some((_, kind, text)) => ([(CONTENT_TYPE, *kind), (CACHE_CONTROL, "no-cache")], *text).into_response(),
        None => nothing().await,
    }
}

pub async fn nothing() -> Response {
    (StatusCode::NOT_FOUND, "there is nothing here\n").into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_pages_together_stay_small_and_ask_nobody_else() {
        let bytes: usize = FILES.iter().map(|(.., text)| text.len()).sum::<usize>() + INDEX.len() + LOGIN.len();
        assert!(bytes < 200_000, "{bytes} bytes");
        for (name, _, text) in FILES.iter().chain([&("index.html", "", INDEX), &("login.html", "", LOGIN)]) {
            if name.starts_with("uplot") {
                continue;
            }
            for word in
                ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "style=\"", " onclick="]
            {
                assert!(!text.contains(word), "{name} holds {word}");
            }
            let elsewhere = text.replace("http://www.w3.org/2000/svg", "");
            assert!(!elsewhere.contains("http://") && !elsewhere.contains("https://"), "{name} names another server");
        }
    }
}
