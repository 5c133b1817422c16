//! `troupe sft`: the warm start alone.

use std::sync::Arc;

use sandbox::pyenv::default_cache_dir;

use super::args::SftArgs;
use super::{Answer, Done, Failure, failure, output, pyenv, run};
use crate::config::{Config, Device};
use crate::errors::UserError;
use crate::observe::{Observer, Progress, RunPhase};
use crate::progress::Terminal;
use crate::sft::{WarmStartError, warm_start};
use crate::stop::StopToken;

pub fn sft(args: SftArgs) -> Done {
    let config = run::configuration(&args.config)?;
    run::require_model(&config)?;
    if !config.sft.enabled {
        return Err(Failure::User(
            UserError::new("there is nothing to do")
                .at("sft.enabled")
                .found("false")
                .expected("true")
                .hint("remove `sft.enabled`, or leave `troupe sft` out"),
        ));
    }
    let stop = run::signals()?;
    let terminal = Arc::new(Terminal::new());
    let observer: Arc<dyn Observer> = terminal.clone();
    observer.on(Progress::Phase(RunPhase::WarmStart));
    let folder = start(&config, &observer, &stop);
    terminal.finish();
    output::line(folder?.display().to_string())?;
    Ok(Answer::Yes)
}

fn start(config: &Config, observer: &Arc<dyn Observer>, stop: &StopToken) -> Result<std::path::PathBuf, Failure> {
    let cache_dir = default_cache_dir().map_err(pyenv::failure)?;
    if config.model.device == Device::Cuda {
        crate::cuda::require("model.device")?;
    }
    let result: Result<_, WarmStartError> = match config.model.device {
        Device::Cpu => warm_start::<model::Cpu>(config, &cache_dir, &Default::default(), observer, stop),
        #[cfg(feature = "cuda")]
        Device::Cuda => warm_start::<model::Gpu>(config, &cache_dir, &Default::default(), observer, stop),
        // The configuration refuses it before.
        #[cfg(not(feature = "cuda"))]
        Device::Cuda => Err(UserError::new("this binary was built without CUDA").into()),
    };
    result.map_err(failure::of_warm_start)
}
