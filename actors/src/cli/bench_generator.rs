//! `troupe bench generator`.

use std::time::Duration;

use model::engine::{Engine, EngineError};
use model::{CpuInner, ModelConfig};

use super::args::{DeviceArg, GeneratorBenchArgs};
use super::{Answer, Done, Failure, interrupt, output, runtime};
use crate::bench::generator::{self, GeneratorBench, Load};
use crate::bench::learner;
use crate::errors::UserError;

pub fn generator(args: GeneratorBenchArgs) -> Done {
    if matches!(args.device, DeviceArg::Cuda) {
        crate::cuda::require("--device")?;
    }
    let Some(config) = learner::config(&args.shape, None) else {
        return Err(Failure::Broken(format!("shape {} is in the list but not known", args.shape)));
    };
    let load = Load {
        sequences: args.sequences as usize,
        group: args.group as usize,
        prompt_tokens: args.prompt as usize,
        answer_tokens: args.answer as usize,
    };
    output::say(format!("{} answers of {} tokens, {} of each prompt", load.sequences, load.answer_tokens, load.group));
    let mut found = match args.device {
        DeviceArg::Cpu => {
            let network = config.init_cheap::<CpuInner>(0, &Default::default());
            generator::run(&args.shape, "cpu, fp32", &load, &network, |c| Ok(Engine::new(&network, c)))
                .map_err(of_engine)?
        }
        DeviceArg::Cuda => on_gpu(&args, &config, &load)?,
    };
    if let Some(python) = &args.peer_python {
        let limit = Duration::from_secs(args.peer_limit_s);
        let peer = runtime()?.block_on(async {
            let peer = generator::peer(python, &args.peer_script, &config, &load, args.peer_batch as usize, limit);
            tokio::select! {
                peer = peer => peer.map_err(|e| UserError::io("measure the peer", &args.peer_script, &e).into()),
                () = interrupt::first() => Err(Failure::Interrupted),
            }
        })?;
        found.ratio = Some(found.decode_tokens_per_s / peer.tokens_per_s);
        found.peer = Some(peer);
    }
    if args.json {
        output::pretty_json(&found)?;
    } else {
        output::line(human(&found))?;
    }
    Ok(Answer::Yes)
}

#[cfg(feature = "cuda")]
fn on_gpu(args: &GeneratorBenchArgs, config: &ModelConfig, load: &Load) -> Result<GeneratorBench, Failure> {
    let gpu = model::engine::GpuConfig { single_precision: args.single_precision, ..Default::default() };
    let device = if args.single_precision { "cuda, fp32" } else { "cuda, bf16" };
    // The backend of a run: adoption copies from the learner's tensors.
    let network = config.init_cheap::<model::GpuInner>(0, &Default::default());
    generator::run(&args.shape, device, load, &network, |c| Engine::on_gpu(&network, c, &gpu)).map_err(of_engine)
}

#[cfg(not(feature = "cuda"))]
fn on_gpu(_: &GeneratorBenchArgs, _: &ModelConfig, _: &Load) -> Result<GeneratorBench, Failure> {
    Err(Failure::User(
        UserError::new("this binary was built without CUDA")
            .at("troupe bench generator")
            .found("--device cuda")
            .expected("--device cpu")
            .hint("build with `cargo build --release --features cuda`"),
    ))
}

fn of_engine(error: EngineError) -> Failure {
    let text = error.to_string();
    let (what, hint) = text.split_once("\n  hint: ").unwrap_or((&text, "`troupe doctor` says what is missing"));
    Failure::User(UserError::new(what).at("troupe bench generator").hint(hint))
}

fn human(f: &GeneratorBench) -> String {
    let mut out = vec![format!(
        "{} on {}: {} sequences, prompts of {} and answers of {} tokens\n{:.0} tokens/s ({:.0} with the prompts), a step {:.2} \
         ms (95 %: {:.2} ms)\nprompts: {:.0} tokens/s ({:.1} ms); start {:.1} s, first round {:.1} s, adoption {:.1} ms",
        f.shape,
        f.device,
        f.load.sequences,
        f.load.prompt_tokens,
        f.load.answer_tokens,
        f.decode_tokens_per_s,
        f.tokens_per_s,
        f.step_ms,
        f.step_p95_ms,
        f.prefill_tokens_per_s,
        f.prefill_ms,
        f.start_s,
        f.warm_up_s,
        f.adopt_ms
    )];
    if let Some(m) = &f.memory {
        out.push(format!(
            "a step reads {:.2} GB of weights and {:.2} GB of keys and values: {:.0} % of the memory's {:.0} GB/s, {:.0} % of \
             the {:.0} GB/s of a copy",
            m.weight_bytes as f64 / 1e9,
            m.cache_bytes / 1e9,
            100.0 * m.share,
            m.nominal_gb_per_s,
            100.0 * m.share_of_copy,
            m.copied_gb_per_s
        ));
    }
    if let (Some(peer), Some(ratio)) = (&f.peer, f.ratio) {
        out.push(format!(
            "transformers.generate at batch {}: {:.0} tokens/s ({}); ours {ratio:.1} times as many",
            peer.batch, peer.tokens_per_s, peer.versions
        ));
    }
    out.join("\n")
}
