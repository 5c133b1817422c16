//! `troupe dashboard`: serves a run to browsers until it is interrupted.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use super::args_view::DashboardArgs;
use super::rollouts::failure;
use super::{Done, Failure, output, runtime};
use crate::dashboard::{Access, Dashboard};
use crate::errors::UserError;
use crate::inspect::{Run, yield_to_the_run};

/// Where the token is looked for when no file is named.
const VARIABLE: &str = "TROUPE_DASHBOARD_TOKEN";
/// A token that can be tried out is none.
const TOKEN_MIN: usize = 16;

pub fn dashboard(args: DashboardArgs) -> Done {
    let token = token(args.token_file.as_deref())?;
    if !args.listen.ip().is_loopback() && token.is_none() {
        return Err(Failure::User(
            UserError::new("a dashboard that others can reach needs a token")
                .at(format!("--listen {}", args.listen))
                .found("no token")
                .expected(format!("--token-file FILE, or the environment variable {VARIABLE}"))
                .hint("or leave out --listen and reach it through `ssh -L 7007:127.0.0.1:7007 HOST`"),
        ));
    }
    // Every thread that is started from here on.
    yield_to_the_run();
    let run = Arc::new(Run::open(&args.run_dir).map_err(failure)?);
    let access = Access { token, hosts: args.hosts };
    runtime()?.block_on(async {
        let bound = |error| {
            Failure::User(
                UserError::new("the dashboard's address cannot be used")
                    .at(format!("--listen {}", args.listen))
                    .found(error)
                    .expected("an address of this machine and a free port")
                    .hint("--listen 127.0.0.1:0 takes any free port"),
            )
        };
        let server = Dashboard::bind(run, args.listen, access).await.map_err(bound)?;
        let address: SocketAddr = server.address().map_err(bound)?;
        output::line(format!("http://{address}/"))?;
        output::say(format!("{} in a browser; Ctrl-C ends it, the run does not notice", args.run_dir.display()));
        tokio::select! {
            served = server.serve() => served.map_err(|e| Failure::Broken(format!("the dashboard ended: {e}")))?,
            _ = tokio::signal::ctrl_c() => return Err(Failure::Interrupted),
        }
        Ok(super::Answer::Yes)
    })
}

/// The token in the file, else in the environment; `None` for neither.
pub fn token(file: Option<&Path>) -> Result<Option<String>, UserError> {
    let (place, text) = match file {
        Some(path) => {
            let text = std::fs::read_to_string(path).map_err(|e| UserError::io("read the token's file", path, &e))?;
            (path.display().to_string(), text)
        }
        None => match std::env::var(VARIABLE) {
            Ok(text) => (format!("the environment variable {VARIABLE}"), text),
            Err(_) => return Ok(None),
        },
    };
    let token = text.trim();
    if token.chars().count() < TOKEN_MIN {
        return Err(UserError::new("the dashboard's token is too short")
            .at(place)
            .found(format!("{} characters", token.chars().count()))
            .expected(format!("at least {TOKEN_MIN}"))
            .hint("for example the output of `openssl rand -hex 24`"));
    }
    Ok(Some(token.to_string()))
}
