//! The flags of nodes that join, are listed and leave, as `--help` shows them.

use clap::{Args, ValueEnum};

use super::args::ConfigArgs;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum RoleArg {
    Executor,
    Generator,
}

#[derive(Args, Debug)]
pub struct JoinArgs {
    /// The head's `cluster.listen`.
    #[arg(value_name = "HOST:PORT")]
    pub head: String,
    /// What this node does.
    #[arg(long, value_enum)]
    pub role: RoleArg,
    /// Executors, or answers that a generator samples at once; without it, the head's `executor.workers` or `generator.max_batch`.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub workers: Option<u32>,
    /// GPUs of this machine: `none`, `all`, or UUIDs with commas between them. Without it, `gpu.devices` of this machine's run file.
    #[arg(long, value_name = "GPUS")]
    pub gpus: Option<String>,
    /// What the node is called; without it, the machine's name.
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// The cookie is the first line of stdin, and the node leaves when stdin ends: what `troupe launch` gives its nodes.
    #[arg(long, hide = true)]
    pub tied: bool,
    #[command(flatten)]
    pub config: ConfigArgs,
}

/// Which head is asked.
#[derive(Args, Debug)]
pub struct HeadArgs {
    /// The head's address; without it, `cluster.listen` of the run file.
    #[arg(long, value_name = "HOST:PORT")]
    pub head: Option<String>,
    #[command(flatten)]
    pub config: ConfigArgs,
}

#[derive(Args, Debug)]
pub struct NodesArgs {
    #[command(flatten)]
    pub head: HeadArgs,
    /// One JSON document on stdout.
    #[arg(long)]
    pub json: bool,
}

#[derive(Args, Debug)]
pub struct DrainArgs {
    /// The node's name, as `troupe nodes` lists it.
    #[arg(value_name = "NODE")]
    pub node: String,
    #[command(flatten)]
    pub head: HeadArgs,
    /// Seconds to wait until it has left; 0 = do not wait.
    #[arg(long, value_name = "S", default_value_t = 600)]
    pub wait_s: u64,
}
