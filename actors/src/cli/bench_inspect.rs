//! `troupe bench inspect`: what viewers cost a run.

use std::time::Duration;

use super::args_view::InspectBenchArgs;
use super::{Answer, Done, Failure, failure, output, run};
use crate::bench::inspect::{self, InspectBench, InspectFigures, Leg, Round};

pub fn inspect(args: InspectBenchArgs) -> Done {
    let stop = run::signals()?;
    let scratch = std::env::temp_dir();
    let window = Duration::from_secs(u64::from(args.seconds));
    let bench = InspectBench { attached: args.viewers, program: args.program, rounds: args.rounds, window };
    if !args.json {
        output::say(format!(
            "{} rounds of twice {} s; the store is in {}",
            args.rounds,
            args.seconds,
            scratch.display()
        ));
        output::line(
            "           without viewers                         with viewers\nrollouts/s  own us  cores  log MiB  \
             rollouts/s  own us  cores  log MiB  viewers' cores  updates/s   loss %",
        )?;
    }
    let mut wrong = None;
    let figures = inspect::run(bench, &stop, |round| {
        if !args.json && wrong.is_none() {
            wrong = output::line(row(round)).err();
        }
    });
    if let Some(wrong) = wrong {
        return Err(wrong);
    }
    let figures = figures.map_err(|e| failure::of_run(e, &scratch))?;
    if stop.asked() {
        return Err(Failure::Interrupted);
    }
    if args.json {
        output::pretty_json(&figures)?;
    } else {
        output::line(summary(&figures))?;
    }
    Ok(Answer::Yes)
}

fn row(round: &Round) -> String {
    let leg = |l: &Leg| {
        format!("{:>10.0} {:>7.1} {:>6.2} {:>8.0}", l.rollouts_per_s, l.own_us_per_rollout, l.own_cores, l.log_mib)
    };
    format!(
        "{}  {} {:>15.3} {:>10.1} {:>8.2}",
        leg(&round.without),
        leg(&round.with),
        round.with.viewer_cores,
        round.with.updates_per_s,
        round.loss_percent
    )
}

fn summary(f: &InspectFigures) -> String {
    let sessions = if f.own_sessions { "each in a session of its own" } else { "in the bench's own session" };
    format!(
        "{:?}, {sessions}; {} processors; {} rollouts\nmedian rollouts/s: {:.0} without, {:.0} with\nmedian processors of the run: \
         {:.3} without, {:.3} with; of the viewers {:.3}; the run's processor time for a rollout: {:.1} us without, {:.1} us with\n\
         updates/s of the page that was updated least: {:.1}\nloss with viewers: median \
         {:.2} %, mean {:.2} % with a standard error of {:.2} %",
        f.attached,
        f.processors,
        f.rollouts,
        f.rollouts_per_s_without,
        f.rollouts_per_s_with,
        f.own_cores_without,
        f.own_cores_with,
        f.viewer_cores,
        f.own_us_without,
        f.own_us_with,
        f.updates_per_s,
        f.loss_median,
        f.loss_mean,
        f.loss_error
    )
}
