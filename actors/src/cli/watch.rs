//! `troupe watch`: a run in the terminal.

use std::sync::Arc;

use super::args_view::WatchArgs;
use super::rollouts::failure;
use super::{Answer, Done, Failure};
use crate::errors::UserError;
use crate::inspect::Run;
use crate::watch::{WatchError, watch as show};

pub fn watch(args: WatchArgs) -> Done {
    let given = args.run_dir.to_string_lossy();
    if given.starts_with("http://") || given.starts_with("https://") {
        return Err(Failure::User(
            UserError::new("`troupe watch` reads run directories, not addresses yet")
                .at("RUN_DIR")
                .found(&given)
                .expected("a run directory of this machine")
                .hint("run it there over ssh: `ssh -t HOST troupe watch RUN_DIR`"),
        ));
    }
    let run = Arc::new(Run::open(&args.run_dir).map_err(failure)?);
    show(run).map(|()| Answer::Yes).map_err(|error| match error {
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
