//! `troupe watch`: a run in the terminal, from its directory or from a dashboard.

use std::sync::Arc;

use super::args_view::WatchArgs;
use super::dashboard::token;
use super::rollouts::failure;
use super::{Answer, Done, Failure};
use crate::errors::UserError;
use crate::inspect::{Run, yield_to_the_run};
use crate::watch::source::{Remote, Source};
use crate::watch::{WatchError, watch as show};

pub fn watch(args: WatchArgs) -> Done {
    yield_to_the_run();
    let given = args.run_dir.to_string_lossy();
    let source = if given.starts_with("http://") || given.starts_with("https://") {
        let token = token(args.token_file.as_deref())?;
        Source::Url(Remote::open(&given, token.as_deref())?)
    } else if let Some(file) = &args.token_file {
        return Err(Failure::User(
            UserError::new("--token-file has no effect here")
                .at(args.run_dir.display())
                .found(format!("--token-file {}, and a run directory", file.display()))
                .expected("the address of a dashboard, which may ask for a token")
                .hint("leave it out"),
        ));
    } else {
        Source::Dir(Arc::new(Run::open(&args.run_dir).map_err(failure)?))
    };
    show(&source).map(|()| Answer::Yes).map_err(|error| match error {
        WatchError::NoTerminal => Failure::User(
            UserError::new("`troupe watch` needs a terminal")
                .at(args.run_dir.display())
                .found("stdin or stdout is none")
                .expected("both of them a terminal")
                .hint("`troupe rollouts RUN_DIR` prints; `ssh -t` gives a terminal to a remote command"),
        ),
        WatchError::Io(_) => Failure::Broken(error.to_string()),
    })
}
