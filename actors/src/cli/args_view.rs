//! The flags of the viewers and of `troupe export`, as `--help` shows them.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::bench::inspect::Attached;

/// A run in the browser: live, or after it ended or crashed. Reads only.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  troupe dashboard runs/first\n  \
                        troupe dashboard runs/first --listen 0.0.0.0:7007 --token-file token.txt\n\n\
                        On the loopback address (the default) no token is needed. Anything else needs one: \
                        --token-file, or the environment variable TROUPE_DASHBOARD_TOKEN. The connection is not encrypted.")]
pub struct DashboardArgs {
    /// The run's directory; the run may go on, have ended or have crashed.
    #[arg(value_name = "RUN_DIR")]
    pub run_dir: PathBuf,
    /// Address and port; port 0 takes any free one.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:7007")]
    pub listen: SocketAddr,
    /// A file with the token that browsers have to give once.
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// A name, besides localhost and addresses, by which this server may be asked. May be given several times.
    #[arg(long = "host", value_name = "NAME")]
    pub hosts: Vec<String>,
}

/// A run in the terminal: overview, rollouts, tasks, executors, actors. Reads only.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  troupe watch runs/first\n  \
                        troupe watch http://127.0.0.1:7007 --token-file token.txt\n\n\
                        An address is that of a dashboard. Its token, where it has one, comes from --token-file or the \
                        environment variable TROUPE_DASHBOARD_TOKEN.")]
pub struct WatchArgs {
    /// The directory of a run, or the address of its dashboard.
    #[arg(value_name = "RUN_DIR or URL")]
    pub run_dir: PathBuf,
    /// A file with the dashboard's token.
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ExportFormat {
    /// One JSON document a line.
    Jsonl,
    /// One table, with tokens and log-probs as lists.
    Parquet,
    /// An event file: every number of every step, queues and GPUs over time.
    Tensorboard,
    /// The timeline as a trace for ui.perfetto.dev: lanes, rollouts, updates, queues, GPUs.
    Perfetto,
}

impl ExportFormat {
    /// As it is given.
    pub fn name(self) -> &'static str {
        match self {
            ExportFormat::Jsonl => "jsonl",
            ExportFormat::Parquet => "parquet",
            ExportFormat::Tensorboard => "tensorboard",
            ExportFormat::Perfetto => "perfetto",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ExportWhat {
    /// With prompt, answer, tokens, log-probs, ruling and report, as `troupe rollouts --show ID --json` prints one.
    Rollouts,
    /// Optimizer steps: the learner's report and what the batch was made of.
    Steps,
    /// Faults of ours.
    Faults,
}

/// A run's data for other programs, on stdout or in a file. Reads only.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  troupe export runs/first --format jsonl > rollouts.jsonl\n  \
                        troupe export runs/first --format parquet --out rollouts.parquet\n  \
                        troupe export runs/first --format tensorboard --out runs/first/tensorboard\n  \
                        troupe export runs/first --format perfetto --out trace.json\n  \
                        troupe export runs/first --format jsonl --what steps")]
pub struct ExportArgs {
    /// The run's directory; the run may go on, have ended or have crashed
    #[arg(value_name = "RUN_DIR")]
    pub run_dir: PathBuf,
    #[arg(long, value_enum)]
    pub format: ExportFormat,
    #[arg(long, value_enum, default_value = "rollouts")]
    pub what: ExportWhat,
    /// Of rollouts, only those for which this is true (`troupe rollouts --help` lists the fields).
    #[arg(long, value_name = "EXPR")]
    pub filter: Option<String>,
    /// The file to write in place of stdout; for tensorboard the folder.
    #[arg(long, value_name = "PATH")]
    pub out: Option<PathBuf>,
}

/// What viewers cost a run: windows of one run without and with three viewers, in turns.
#[derive(Args, Debug)]
pub struct InspectBenchArgs {
    /// What is attached in every second window.
    #[arg(long, value_enum, default_value = "shared")]
    pub viewers: Attached,
    /// The viewers' program, to compare with another version's.
    #[arg(long, value_name = "TROUPE")]
    pub program: Option<PathBuf>,
    /// Pairs of windows.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub rounds: u32,
    /// Seconds of one window.
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u32).range(1..=600))]
    pub seconds: u32,
    /// One JSON document on stdout.
    #[arg(long)]
    pub json: bool,
}
