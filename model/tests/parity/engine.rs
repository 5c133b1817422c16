//! The path that samples (prefill, cached decoding, the engine's records) against transformers, on every fixture.
//!
//! Planted and seen to fail: `rope_scale` dropped in `host::kernels::angles` (qwen2-yarn), and the bias of the output projection
//! dropped in `host::decode` (llama-bias-tied).

use std::sync::Arc;

use model::engine::{Engine, EngineConfig, EngineError, Finished, Request};
use model::host::decode::{DecodeRow, DecodeScratch, DecodeWeights, PrefixKv, SequenceKv, decode};
use model::host::forward::forward;
use model::host::{HostWeights, Rows, Tape};
use model::sampling::{Sampling, argmax};
use model::{Transformer, load_weights};

use crate::logits::{TOLERANCE, log_softmax, rows_of, token_rows};
use crate::*;

struct Case {
    network: Transformer<B>,
    rows: Vec<Vec<u32>>,
    /// Positions whose logits are in the fixture.
    shown: Vec<usize>,
    /// `[row * shown][vocab]`
    logits: Vec<Vec<f32>>,
    /// `[row][position]`: log-prob of the next token.
    following: Vec<Vec<f32>>,
}

fn case(name: &str) -> Case {
    let (_, network) = load_weights::<B>(&fixture(name), &Default::default()).unwrap();
    let expected = json(fixture(name).join("expected.json"));
    let shown = expected["shown"].as_array().unwrap().iter().map(|x| x.as_u64().unwrap() as usize).collect();
    Case {
        network,
        rows: token_rows(&expected["tokens"]),
        shown,
        logits: rows_of(&expected["logits"]),
        following: rows_of(&expected["following_logprobs"]),
    }
}

/// The cache after a prompt.
fn prefill(weights: &HostWeights, prompt: &[u32]) -> SequenceKv {
    let (mut rows, mut tape) = (Rows::default(), Tape::default());
    let start = rows.push(prompt, 0..0);
    let mut kv = PrefixKv::new(&weights.dims, weights.layers.len(), prompt.len());
    forward(weights, &rows, &mut tape, false, &mut |layer, t| kv.fill(&weights.dims, layer, t, start));
    SequenceKv::new(Arc::new(kv))
}

#[test]
fn cached_decoding_has_the_logits_and_log_probs_of_transformers() {
    const PROMPT: usize = 4;
    for name in CASES {
        let case = case(name);
        let weights = DecodeWeights::new(HostWeights::from_network(&case.network));
        let mut caches: Vec<SequenceKv> =
            case.rows.iter().map(|row| prefill(&weights.weights, &row[..PROMPT])).collect();
        let mut scratch = DecodeScratch::default();
        let mut compared = 0;
        for t in PROMPT..case.rows[0].len() {
            let mut step: Vec<DecodeRow> =
                case.rows.iter().zip(&mut caches).map(|(row, kv)| DecodeRow { token: row[t], kv }).collect();
            let found = decode(&weights, &mut step, &mut scratch).to_vec();
            for (b, found) in found.chunks_exact(found.len() / case.rows.len()).enumerate() {
                if let Some(i) = case.shown.iter().position(|s| *s == t) {
                    let gap = worst(found, &case.logits[b * case.shown.len() + i]);
                    assert!(gap < TOLERANCE, "{name}: row {b}, position {t}: logits are off by {gap}");
                    compared += 1;
                }
                if let (Some(next), Some(expected)) = (case.rows[b].get(t + 1), case.following[b].get(t)) {
                    let gap = worst(&[log_softmax(found)[*next as usize]], &[*expected]);
                    assert!(gap < TOLERANCE, "{name}: row {b}, position {t}: the log-prob is off by {gap}");
                }
            }
        }
        assert!(compared >= 12, "{name}: {compared} rows of logits compared");
    }
}

fn answers(network: &Transformer<B>, max_seq_len: usize, requests: Vec<Request>) -> Vec<Finished> {
    let mut engine: Engine<B> = Engine::new(network, EngineConfig { max_batch: 8, max_seq_len, threads: 2 });
    requests.into_iter().for_each(|request| engine.admit(request).unwrap());
    let mut done = Vec::new();
    while !engine.is_idle() {
        done.extend(engine.step().unwrap());
    }
    done.sort_by_key(|f| f.id);
    done
}

fn request(id: u64, prompt: &[u32], sampling: Sampling, max_new_tokens: usize) -> Request {
    Request { id, prompt: prompt.to_vec(), seed: 70 + id, sampling, max_new_tokens, eos: vec![] }
}

#[test]
fn the_engine_takes_and_records_what_transformers_says() {
    for name in CASES {
        let case = case(name);
        let mut requests = Vec::new();
        for (b, row) in case.rows.iter().enumerate() {
            for (i, t) in case.shown.iter().enumerate() {
                let id = (b * case.shown.len() + i) as u64;
                requests.push(request(id, &row[..=*t], Sampling::GREEDY, 1));
            }
        }
        let done = answers(&case.network, 64, requests);
        assert_eq!(done.len(), case.logits.len());
        for (answer, expected) in done.iter().zip(&case.logits) {
            let best = argmax(expected);
            assert_eq!(answer.tokens, [best as u32], "{name}: prompt {}", answer.id);
            let gap = worst(&answer.logprobs, &[log_softmax(expected)[best]]);
            assert!(gap < TOLERANCE, "{name}: prompt {}: the log-prob is off by {gap}", answer.id);
        }
    }
}

#[test]
fn recorded_log_probs_of_long_answers_are_those_of_the_network() {
    let sampling = Sampling { temperature: 0.8, ..Sampling::default() };
    for name in CASES {
        let case = case(name);
        // Answers longer than one chunk of the cache; prompts of three lengths.
        let prompts = [&case.rows[0][..1], &case.rows[0][..16], &case.rows[1][..21]];
        let requests = prompts.iter().enumerate().map(|(i, p)| request(i as u64, p, sampling, 40)).collect();
        for (answer, prompt) in answers(&case.network, 64, requests).iter().zip(prompts) {
            let all: Vec<u32> = prompt.iter().chain(&answer.tokens).copied().collect();
            let logits = full_logits(&case.network, &[all]);
            for (i, (token, found)) in answer.tokens.iter().zip(&answer.logprobs).enumerate() {
                let row: Vec<f32> = logits[prompt.len() - 1 + i].iter().map(|z| z / sampling.temperature).collect();
                let gap = worst(&[*found], &[log_softmax(&row)[*token as usize]]);
                assert!(gap < 2.0 * TOLERANCE, "{name}: request {}, token {i}: off by {gap}", answer.id);
            }
        }
    }
}

/// Planted and seen to fail: the engine's limit taken from its configuration alone.
#[test]
fn dynamic_scaling_is_plain_within_its_window_and_nothing_longer_is_sampled() {
    let dir = tempfile::tempdir().unwrap();
    let (mut config, network) = load_weights::<B>(&fixture("llama-dynamic-plain"), &Default::default()).unwrap();
    config.rope_scaling = None;
    let tokenizer = model::train_bpe(&[], 263).unwrap();
    model::save_hf(&dir.path().join("plain"), &config, &network, &tokenizer).unwrap();
    let (_, plain) = load_weights::<B>(&dir.path().join("plain"), &Default::default()).unwrap();
    assert_eq!(network.rope, plain.rope);
    assert_eq!(network.rope.positions, 64);
    let prompt = [3u32; 60];
    let done = answers(&network, 4096, vec![request(0, &prompt, Sampling::GREEDY, 100)]);
    assert_eq!(done[0].tokens.len(), 4);
    let mut engine: Engine<B> = Engine::new(&network, EngineConfig { max_batch: 1, max_seq_len: 4096, threads: 1 });
    let refused = engine.admit(request(1, &[3; 64], Sampling::GREEDY, 1));
    assert_eq!(refused, Err(EngineError::PromptTooLong { id: 1, tokens: 64, limit: 64 }));
}
