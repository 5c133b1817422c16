//! Who may look: the name the server was asked by, the token, and the headers that keep a model's output harmless.
//!
//! On the loopback address no token is needed, but the request must name it: a page of another site that makes its own
//! name point here (DNS rebinding) is turned away. Anywhere else a token is needed, in an Authorization header or once in
//! a form, which gives a cookie. It is never part of an address.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::{Form, Request, State};
use axum::http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, COOKIE, HOST, HeaderMap, HeaderValue,
    LOCATION, REFERRER_POLICY, SET_COOKIE, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use axum::http::uri::Authority;
use axum::http::{HeaderName, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::{Shared, assets};

/// Nothing but our own files runs, no page frames us, nothing is sent elsewhere.
const POLICY: &str =
    "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'";
/// Sessions that are remembered; the oldest is forgotten.
const SESSIONS_MAX: usize = 64;
/// How long a wrong token takes.
const WRONG_TOKEN: Duration = Duration::from_millis(500);

/// How the server may be reached.
#[derive(Clone, Debug, Default)]
pub struct Access {
    pub token: Option<String>,
    /// Names besides the loopback's by which it may be asked.
    pub hosts: Vec<String>,
}

pub struct Guard {
    /// SHA-256: compared in place of the token, so that the time taken says nothing about it.
    token: Option<[u8; 32]>,
    hosts: Vec<String>,
    loopback: bool,
    /// With the port: to a browser all dashboards of a host are one site.
    cookie: String,
    sessions: Mutex<VecDeque<[u8; 32]>>,
}

fn digest(text: &str) -> [u8; 32] {
    Sha256::digest(text.trim().as_bytes()).into()
}

impl Guard {
    pub fn new(address: SocketAddr, access: Access) -> Guard {
        Guard {
            token: access.token.as_deref().map(digest),
            hosts: access.hosts.iter().map(|h| h.to_ascii_lowercase()).collect(),
            loopback: address.ip().is_loopback(),
            cookie: format!("troupe_session_{}", address.port()),
            sessions: Mutex::default(),
        }
    }

    /// Whether a Host header, or another authority, names this server.
    fn is_own_name(&self, authority: &str) -> bool {
        let Ok(authority) = authority.parse::<Authority>() else { return false };
        let host = authority.host().to_ascii_lowercase();
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        match bare.parse::<IpAddr>() {
            // An address cannot be made to point elsewhere.
            Ok(ip) => ip.is_loopback() || !self.loopback,
            Err(_) => host == "localhost" || self.hosts.contains(&host),
        }
    }

    fn is_known(&self, headers: &HeaderMap) -> bool {
        let Some(token) = self.token else { return true };
        let text = |name: HeaderName| headers.get(name).and_then(|v| v.to_str().ok());
        if let Some(given) = text(AUTHORIZATION).and_then(|v| v.strip_prefix("Bearer ")) {
            return digest(given) == token;
        }
        let cookies = headers.get_all(COOKIE).iter().filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(';'));
        let sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        cookies
            .filter_map(|c| c.trim().strip_prefix(self.cookie.as_str())?.strip_prefix('='))
            .any(|c| sessions.contains(&digest(c)))
    }

    /// A new session's cookie.
    fn session(&self) -> String {
        let bytes: [u8; 32] = rand::random();
        let value: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        sessions.push_back(digest(&value));
        if sessions.len() > SESSIONS_MAX {
            sessions.pop_front();
        }
        format!("{}={value}; HttpOnly; SameSite=Strict; Path=/; Max-Age=604800", self.cookie)
    }
}

/// Turns away requests that name another host or come from another site, and adds the headers to every answer.
pub async fn own_name_only(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let headers = request.headers();
    let text = |name: &str| headers.get(name).map(|v| v.to_str().unwrap_or(""));
    let asked = text(HOST.as_str()).is_some_and(|host| shared.guard.is_own_name(host));
    let target = request.uri().authority().is_none_or(|a| shared.guard.is_own_name(a.as_str()));
    let origin = text("origin").is_none_or(|origin| {
        origin.split_once("://").is_some_and(|(_, authority)| shared.guard.is_own_name(authority))
    });
    // A link from elsewhere may lead to the page, and from there to the form; it may not lead into the data.
    let door = matches!(request.uri().path(), "/" | "/login");
    let site = text("sec-fetch-site").is_none_or(|site| site != "cross-site" || door);
    let mut response = if asked && target && origin && site {
        next.run(request).await
    } else {
        let words = "This server answers to localhost, to its address, and to names given with --host.\n";
        (StatusCode::MISDIRECTED_REQUEST, words).into_response()
    };
    let headers = response.headers_mut();
    for (name, value) in [
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (X_FRAME_OPTIONS, "DENY"),
        // Not `no-referrer`: a browser would then call the origin of our own form `null`.
        (REFERRER_POLICY, "same-origin"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

/// Asks for the token where there is one.
pub async fn known_only(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    if shared.guard.is_known(request.headers()) {
        return next.run(request).await;
    }
    if request.uri().path() == "/" {
        return (StatusCode::SEE_OTHER, [(LOCATION, "/login")]).into_response();
    }
    tokio::time::sleep(WRONG_TOKEN).await;
    (StatusCode::UNAUTHORIZED, "a token is needed: an Authorization header, or the form at /login\n").into_response()
}

pub async fn form() -> Response {
    page(StatusCode::OK, "")
}

#[derive(Deserialize)]
pub struct Login {
    token: String,
}

pub async fn login(State(shared): State<Arc<Shared>>, Form(login): Form<Login>) -> Response {
    match shared.guard.token {
        Some(token) if digest(&login.token) != token => {
            tokio::time::sleep(WRONG_TOKEN).await;
            page(StatusCode::UNAUTHORIZED, "That is not the token of this dashboard.")
        }
        Some(_) => {
            let cookie = shared.guard.session();
            (StatusCode::SEE_OTHER, [(LOCATION, "/".to_string()), (SET_COOKIE, cookie)]).into_response()
        }
        None => (StatusCode::SEE_OTHER, [(LOCATION, "/")]).into_response(),
    }
}

fn page(status: StatusCode, message: &str) -> Response {
    let html = assets::LOGIN.replace("MESSAGE", message);
    (status, [(CONTENT_TYPE, "text/html; charset=utf-8")], html).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard(address: &str, hosts: &[&str]) -> Guard {
        let access =
            Access { token: Some("sesame-sesame-sesame".into()), hosts: hosts.iter().map(|h| h.to_string()).collect() };
        Guard::new(address.parse().unwrap(), access)
    }

    #[test]
    fn only_own_names_are_answered() {
        let local = guard("127.0.0.1:7007", &["Box.example"]);
        for name in ["localhost", "LOCALHOST:7007", "127.0.0.1:7007", "[::1]:7007", "127.0.0.2", "box.example:80"] {
            assert!(local.is_own_name(name), "{name}");
        }
        for name in ["evil.example", "localhost.evil.example", "10.0.0.1:7007", "", "a b", "127.0.0.1.nip.io"] {
            assert!(!local.is_own_name(name), "{name}");
        }
        let open = guard("0.0.0.0:7007", &[]);
        assert!(open.is_own_name("10.0.0.1:7007") && !open.is_own_name("evil.example"));
    }

    #[test]
    fn the_token_or_a_session_opens_and_nothing_near_it() {
        let guard = guard("0.0.0.0:7007", &[]);
        let with = |name: HeaderName, value: String| {
            guard.is_known(&[(name, HeaderValue::from_str(&value).unwrap())].into_iter().collect())
        };
        assert!(!guard.is_known(&HeaderMap::new()));
        assert!(with(AUTHORIZATION, "Bearer sesame-sesame-sesame".into()));
        for wrong in ["Bearer sesame-sesame-sesam", "Bearer ", "sesame-sesame-sesame", "Basic sesame-sesame-sesame"] {
            assert!(!with(AUTHORIZATION, wrong.into()), "{wrong}");
        }
        let cookie = guard.session();
        assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict"), "{cookie}");
        let pair = cookie.split(';').next().unwrap().to_string();
        assert!(!pair.contains("sesame"), "the cookie is not the token");
        assert!(with(COOKIE, format!("a=b; {pair}")));
        assert!(!with(COOKIE, format!("{pair}0")));
        for _ in 0..SESSIONS_MAX {
            guard.session();
        }
        assert!(!with(COOKIE, pair), "the oldest session is forgotten");
    }
}
