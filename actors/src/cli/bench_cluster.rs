//! `troupe bench cluster`: the executors' stage on many processes.

use super::args_cluster::ClusterBenchArgs;
use super::{Answer, Done, Failure, bench_cluster_drills, bench_cluster_peer, output, run};
use crate::bench::cluster::{self, ClusterBench, ClusterFigures};

pub fn cluster(args: ClusterBenchArgs) -> Done {
    if let (Some(dir), Some(listen)) = (&args.head_in, &args.listen) {
        return bench_cluster_drills::head(dir, listen, args.sampled);
    }
    if args.tun {
        return bench_cluster_drills::end();
    }
    if args.drills {
        return bench_cluster_drills::drills(&args);
    }
    if let Some(python) = &args.peer_python {
        return bench_cluster_peer::versus(&args, python);
    }
    let stop = run::signals()?;
    if !args.json {
        output::line(format!(
            "{:>6} {:>9} {:>10} {:>8} {:>8} {:>10} {:>10} {:>9} {:>9} {:>10} {:>9} {:>7}",
            "nodes",
            "executors",
            "candidates",
            "seconds",
            "each/s",
            "efficiency",
            "1st join",
            "all join",
            "head CPU",
            "head us",
            "head MiB",
            "faults"
        ))?;
    }
    for nodes in args.nodes {
        let bench =
            ClusterBench { port: args.port, takes_ms: args.takes_ms, each: args.each, nodes, workers: args.workers };
        let figures = cluster::run(bench, &stop);
        if stop.asked() {
            return Err(Failure::Interrupted);
        }
        let figures = figures?;
        if args.json {
            output::json(&figures)?;
        } else {
            output::line(row(&figures))?;
        }
    }
    Ok(Answer::Yes)
}

fn row(f: &ClusterFigures) -> String {
    format!(
        "{:>6} {:>9} {:>10} {:>8.2} {:>8.1} {:>8.1} % {:>7} ms {:>6} ms {:>7.1} % {:>10.1} {:>9.0} {:>7}",
        f.nodes,
        f.executors,
        f.candidates,
        f.seconds,
        f.candidates_per_s,
        100.0 * f.efficiency,
        f.first_joined_ms,
        f.joined_ms,
        100.0 * f.head_cpu,
        f.head_us_each,
        f.head_rss_mib,
        f.faults
    )
}
