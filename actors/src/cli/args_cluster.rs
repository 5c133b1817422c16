//! Arguments of `troupe bench cluster`.

use std::path::PathBuf;

use clap::Args;

#[derive(Args, Debug)]
pub struct ClusterBenchArgs {
    /// Nodes, each a `troupe join` of its own; several numbers with commas between them.
    #[arg(long, value_delimiter = ',', default_value = "1,2,4,8,16,32", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub nodes: Vec<u32>,
    /// Executors of each node.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub workers: u32,
    /// Milliseconds of one candidate; nothing is computed.
    #[arg(long, default_value_t = 1000)]
    pub takes_ms: u64,
    /// Candidates for each executor.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    pub each: u64,
    /// The head's port on the loopback; the next one is its side channel's.
    #[arg(long, default_value_t = 17_440)]
    pub port: u16,
    /// A Python with ray and numpy: the executors' stage as a loop, beside the same in Ray.
    #[arg(long, value_name = "PYTHON", conflicts_with_all = ["each", "drills"])]
    pub peer_python: Option<PathBuf>,
    /// With --peer-python: candidates in one call of Ray's; several numbers with commas between them.
    #[arg(long, value_delimiter = ',', default_value = "1,8", value_parser = clap::value_parser!(u64).range(1..=1024), requires = "peer_python")]
    pub peer_batch: Vec<u64>,
    /// With --peer-python: candidates under way at once for each executor, on both sides.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=1024), requires = "peer_python")]
    pub depth: u64,
    /// With --peer-python: seconds of each measurement, after a fifth of it for warming up.
    #[arg(long, default_value_t = 10.0, requires = "peer_python")]
    pub seconds: f64,
    /// Kills, freezes and attacks in place of measurements: what was noticed when, and how fast the rate is back. Answers no where
    /// anything is lost, answered twice or hangs, or where a figure is over its limit (5 s and 10 s).
    #[arg(long, conflicts_with = "each")]
    pub drills: bool,
    /// With --drills: only these, with commas between them.
    #[arg(long, value_delimiter = ',', value_name = "NAME", requires = "drills")]
    pub only: Vec<String>,
    /// For the drills: this process is their head, in this folder.
    #[arg(long, value_name = "DIR", hide = true, requires = "listen")]
    pub head_in: Option<PathBuf>,
    #[arg(long, hide = true)]
    pub listen: Option<String>,
    /// For the drill over a bad network: this process is one end of it.
    #[arg(long, hide = true)]
    pub tun: bool,
    /// For the drills of generators: nodes sample.
    #[arg(long, hide = true)]
    pub sampled: bool,
    /// How often each: a drill, or a side of the comparison.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub repeats: u32,
    /// JSON Lines on stdout.
    #[arg(long)]
    pub json: bool,
}
