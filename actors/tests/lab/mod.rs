//! A generation server that really samples: a tiny network behind the API of vLLM or SGLang, token by token, with pause,
//! reload and its own record of which weights sampled which token.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::io::{Error, Result};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use model::Transformer;
use model::engine::{Engine, EngineConfig, Request};
use model::sampling::Sampling;
use rollout::id::PolicyVersion;
use serde_json::json;

use crate::endpoint::Received;
use crate::server::{Form, Reply, Server, answers_path, obey, path};

/// Its context, tokens.
const POSITIONS: usize = 2048;

/// What the server knows of one answer it gave.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Given {
    pub tokens: Vec<u32>,
    /// The version of the weights each token was sampled from, by the name of their folder.
    pub versions: Vec<u64>,
}

#[derive(Default)]
struct State {
    engine: Option<Engine<model::CpuInner>>,
    version: u64,
    paused: bool,
    /// Everything that was ever loaded, for training-side arithmetic.
    loaded: BTreeMap<u64, Transformer<model::Cpu>>,
    /// By the seed of the request.
    given: BTreeMap<u64, Given>,
}

pub struct Lab {
    pub server: Server,
    state: Arc<Mutex<State>>,
}

/// What goes wrong with the answer to a request: by its seed.
pub type Mishap = fn(u64) -> bool;

impl Lab {
    /// A token takes `pace`, or up to five times that, by its answer's seed: so answers are at different places when weights change,
    /// on a fast machine too. Answers whose seed meets `mishap` come with a log-prob that is none.
    pub fn open(form: Form, pace: Duration, mishap: Mishap) -> Lab {
        let state: Arc<Mutex<State>> = Arc::default();
        let shared = state.clone();
        let server = Server::start(move |_, request, reply| {
            let asked = path(request);
            if asked == answers_path(form.server()) {
                return answer(&shared, form, pace, mishap, request, reply);
            }
            match asked.as_str() {
                "/v1/models" => {
                    return reply.json(&json!({ "data": [{ "id": "served", "max_model_len": POSITIONS }] }));
                }
                "/server_info?config_format=json" => {
                    let model = json!({ "model_config": { "logprobs_mode": "processed_logprobs" } });
                    return reply.json(&json!({ "vllm_config": model }));
                }
                _ => {}
            }
            let named = request.body["kwargs"]["weights_path"].as_str().or(request.body["model_path"].as_str());
            if let Some(folder) = named {
                load(&mut shared.lock().unwrap(), Path::new(folder));
            }
            // Taken under the lock in which tokens are sampled and sent: after the response nothing is on its way.
            match asked.as_str() {
                "/pause?mode=keep" | "/pause_generation" => shared.lock().unwrap().paused = true,
                "/resume" | "/continue_generation" => shared.lock().unwrap().paused = false,
                _ => {}
            }
            obey(request, reply)
        });
        Lab { server, state }
    }

    pub fn version(&self) -> u64 {
        self.state.lock().unwrap().version
    }

    pub fn given(&self) -> BTreeMap<u64, Given> {
        self.state.lock().unwrap().given.clone()
    }

    pub fn weights(&self, version: u64) -> Transformer<model::Cpu> {
        self.state.lock().unwrap().loaded[&version].clone()
    }
}

fn load(state: &mut State, folder: &Path) {
    let version = folder.file_name().unwrap().to_str().unwrap()[1..].parse().unwrap();
    let (_, network) = model::load_weights::<model::CpuInner>(folder, &Default::default()).unwrap();
    let (_, trained) = model::load_weights::<model::Cpu>(folder, &Default::default()).unwrap();
    let config = EngineConfig { max_batch: 1, max_seq_len: POSITIONS, threads: 1 };
    let mut engine = Engine::new(&network, config);
    engine.adopt(&network, PolicyVersion(version)).expect("a CPU engine does not fail");
    (state.engine, state.version) = (Some(engine), version);
    state.loaded.insert(version, trained);
}

fn answer(
    state: &Mutex<State>,
    form: Form,
    pace: Duration,
    mishap: Mishap,
    request: &Received,
    reply: &mut Reply,
) -> Result<()> {
    let body = &request.body;
    let sampling = if form == Form::Vllm { body } else { &body["sampling_params"] };
    let (prompt, limit, seed) = match form {
        Form::Vllm => (&body["prompt"], &sampling["max_tokens"], &sampling["seed"]),
        Form::SglangWhole | Form::SglangNew => {
            (&body["input_ids"], &sampling["max_new_tokens"], &sampling["sampling_seed"])
        }
    };
    let prompt: Vec<u32> = serde_json::from_value(prompt.clone()).unwrap();
    let (limit, seed) = (limit.as_u64().unwrap() as usize, seed.as_u64().unwrap());
    let eos: Vec<u32> = serde_json::from_value(sampling["stop_token_ids"].clone()).unwrap();
    assert_eq!((sampling["temperature"].as_f64(), sampling["top_p"].as_f64()), (Some(1.0), Some(1.0)));
    let mut out: Vec<(u32, f64)> = Vec::new();
    let mut given = Given::default();
    let pace = pace * (1 + seed % 5) as u32;
    reply.begin()?;
    loop {
        std::thread::sleep(pace);
        let mut state = state.lock().unwrap();
        if state.paused {
            continue;
        }
        // One token from the whole sequence so far: a cache of older weights never counts, as after vLLM's reset.
        let engine = state.engine.as_mut().ok_or(Error::other("nothing is loaded"))?;
        let sequence = prompt.iter().copied().chain(out.iter().map(|(t, _)| *t)).collect();
        let one = Request {
            id: 0,
            prompt: sequence,
            seed: seed.wrapping_mul(1009).wrapping_add(out.len() as u64),
            sampling: Sampling::default(),
            max_new_tokens: 1,
            eos: eos.clone(),
        };
        engine.admit(one).unwrap();
        let sampled = engine.step().expect("a CPU engine does not fail").remove(0);
        out.push((sampled.tokens[0], f64::from(sampled.logprobs[0])));
        given.tokens.push(sampled.tokens[0]);
        given.versions.push(state.version);
        let finish = match out.last() {
            Some((token, _)) if eos.contains(token) => Some("stop"),
            _ if out.len() == limit => Some("length"),
            _ => None,
        };
        let mut event = form.event(&out, 1, finish);
        if mishap(seed) {
            event["choices"][0]["logprobs"]["token_logprobs"] = json!([null]);
        }
        reply.event(&event.to_string())?;
        if finish.is_some() {
            state.given.insert(seed, given);
            drop(state);
            return reply.end();
        }
    }
}
