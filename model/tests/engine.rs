//! Generation against the network's own full forward pass, and its independence of neighbours.
#![allow(clippy::unwrap_used)]

mod policy;

use burn::backend::Flex;
use burn::module::AutodiffModule;
use model::engine::{Engine, EngineConfig, EngineError, Finished, Request};
use model::sampling::{Sampling, argmax};
use model::{Transformer, config::Family};
use policy::{FAMILIES, full_log_probs, network, tokens};
use rollout::completion::Finish;
use rollout::id::PolicyVersion;

fn engine(network: &Transformer<Flex>, max_batch: usize, threads: usize) -> Engine<Flex> {
    Engine::new(network, EngineConfig { max_batch, max_seq_len: 200, threads })
}

fn request(id: u64, prompt: Vec<u32>, sampling: Sampling) -> Request {
    Request { id, prompt, seed: 1000 + id, sampling, max_new_tokens: 30, eos: vec![] }
}

fn drain(engine: &mut Engine<Flex>) -> Vec<Finished> {
    let mut done = Vec::new();
    while !engine.is_idle() {
        done.extend(engine.step().unwrap());
    }
    done.sort_by_key(|f| f.id);
    done
}

#[test]
fn greedy_decoding_is_the_argmax_of_the_full_forward_pass() {
    for family in FAMILIES {
        let network = network(family, 3);
        let prompt = tokens(1, 19);
        let mut engine = engine(&network.valid(), 4, 1);
        engine.admit(request(0, prompt.clone(), Sampling::GREEDY)).unwrap();
        let answer = drain(&mut engine).remove(0);
        let all: Vec<u32> = prompt.iter().chain(&answer.tokens).copied().collect();
        let rows = full_log_probs(&network, &all, 1.0);
        for (i, token) in answer.tokens.iter().enumerate() {
            let row: Vec<f32> = rows[prompt.len() - 1 + i].iter().map(|x| *x as f32).collect();
            assert_eq!(*token as usize, argmax(&row), "{family:?}, token {i}");
        }
        assert_eq!((answer.finish, answer.tokens.len()), (Finish::Length, 30));
    }
}

#[test]
fn recorded_log_probs_are_those_of_a_full_forward_pass() {
    for family in FAMILIES {
        let network = network(family, 4);
        let mut engine = engine(&network.valid(), 8, 2);
        let sampling = Sampling { temperature: 0.8, ..Sampling::default() };
        // Longer than one chunk of cache positions, and a prompt of exactly one.
        let prompts = [tokens(1, 37), tokens(2, 16), tokens(3, 1)];
        for (id, prompt) in prompts.iter().enumerate() {
            engine.admit(request(id as u64, prompt.clone(), sampling)).unwrap();
        }
        for (answer, prompt) in drain(&mut engine).iter().zip(&prompts) {
            let all: Vec<u32> = prompt.iter().chain(&answer.tokens).copied().collect();
            let rows = full_log_probs(&network, &all, sampling.temperature);
            for (i, (token, found)) in answer.tokens.iter().zip(&answer.logprobs).enumerate() {
                let expected = rows[prompt.len() - 1 + i][*token as usize];
                let error = (f64::from(*found) - expected).abs();
                assert!(error < 1e-4, "{family:?}, request {}, token {i}: {found} against {expected}", answer.id);
            }
        }
    }
}

#[test]
fn samples_do_not_depend_on_neighbours_threads_or_late_admission() {
    let network = network(Family::Qwen3, 5).valid();
    let sampling = Sampling { temperature: 1.0, top_k: 20, top_p: 0.95, min_p: 0.01 };
    let ours = request(7, tokens(9, 23), sampling);
    let mut alone = engine(&network, 4, 1);
    alone.admit(ours.clone()).unwrap();
    let expected = drain(&mut alone);

    // Beside others (one of them with the same prompt), on two threads.
    let mut crowd = engine(&network, 32, 2);
    for id in 20..33 {
        let prompt = if id == 25 { ours.prompt.clone() } else { tokens(id, 3 + id as usize) };
        crowd.admit(request(id, prompt, sampling)).unwrap();
    }
    crowd.admit(ours.clone()).unwrap();
    let found: Vec<_> = drain(&mut crowd).into_iter().filter(|f| f.id == 7).collect();
    assert_eq!(found, expected);

    // Admitted while others are in the middle, and after waiting for a place.
    let mut late = engine(&network, 3, 2);
    for id in 40..44 {
        late.admit(request(id, tokens(id, 12), sampling)).unwrap();
    }
    for _ in 0..5 {
        assert!(late.step().unwrap().is_empty());
    }
    late.admit(ours.clone()).unwrap();
    assert_eq!((late.active(), late.waiting()), (3, 2));
    let found: Vec<_> = drain(&mut late).into_iter().filter(|f| f.id == 7).collect();
    assert_eq!(found, expected);

    // Another seed gives another answer: the comparison above can fail.
    let mut other = engine(&network, 4, 1);
    other.admit(Request { seed: 1, ..ours }).unwrap();
    assert_ne!(drain(&mut other)[0].tokens, expected[0].tokens);
}

#[test]
fn an_end_of_sequence_token_ends_the_answer_and_is_its_last() {
    let network = network(Family::Llama, 6).valid();
    let mut free = engine(&network, 4, 1);
    free.admit(request(1, tokens(4, 9), Sampling::default())).unwrap();
    let long = drain(&mut free).remove(0);
    let eos = long.tokens[11];
    let first = long.tokens.iter().position(|t| *t == eos).unwrap();
    let mut stopping = engine(&network, 4, 1);
    stopping.admit(Request { eos: vec![0, eos], ..request(1, tokens(4, 9), Sampling::default()) }).unwrap();
    let short = drain(&mut stopping).remove(0);
    assert_eq!(short.finish, Finish::Stop);
    assert_eq!(short.tokens, long.tokens[..=first]);
    // The room of the engine is a limit too.
    let mut narrow: Engine<Flex> = Engine::new(&network, EngineConfig { max_batch: 4, max_seq_len: 12, threads: 1 });
    narrow.admit(request(1, tokens(4, 9), Sampling::default())).unwrap();
    let cut = drain(&mut narrow).remove(0);
    assert_eq!((cut.finish, cut.tokens.len()), (Finish::Length, 3));
}

#[test]
fn adopting_between_tokens_is_recorded_and_changes_what_follows() {
    let (old, new) = (network(Family::Qwen3, 7), network(Family::Qwen3, 8));
    let prompt = tokens(5, 20);
    let mut engine = engine(&old.valid(), 4, 1);
    engine.adopt(&old.valid(), PolicyVersion(3)).unwrap();
    engine.admit(request(0, prompt.clone(), Sampling::default())).unwrap();
    for _ in 0..10 {
        engine.step().unwrap();
    }
    engine.adopt(&new.valid(), PolicyVersion(4)).unwrap();
    // The same prompt after the change: its cache is made anew, its only span is version 4.
    engine.admit(request(1, prompt.clone(), Sampling::default())).unwrap();
    let done = drain(&mut engine);
    let spans: Vec<(u32, u64)> = done[0].spans.iter().map(|s| (s.start, s.policy.0)).collect();
    assert_eq!(spans, [(0, 3), (10, 4)]);
    let spans: Vec<(u32, u64)> = done[1].spans.iter().map(|s| (s.start, s.policy.0)).collect();
    assert_eq!(spans, [(0, 4)]);
    let all: Vec<u32> = prompt.iter().chain(&done[1].tokens).copied().collect();
    let rows = full_log_probs(&new, &all, 1.0);
    for (i, token) in done[1].tokens.iter().enumerate() {
        let expected = rows[prompt.len() - 1 + i][*token as usize];
        assert!((f64::from(done[1].logprobs[i]) - expected).abs() < 1e-4, "token {i}");
    }
    let before: Vec<u32> = prompt.iter().chain(&done[0].tokens).copied().collect();
    let rows = full_log_probs(&old, &before, 1.0);
    let drift = |i: usize| {
        let expected = rows[prompt.len() - 1 + i][done[0].tokens[i] as usize];
        (f64::from(done[0].logprobs[i]) - expected).abs()
    };
    assert!((0..10).all(|i| drift(i) < 1e-4));
    assert!((10..30).any(|i| drift(i) > 1e-2));
}

#[test]
fn cancelled_requests_never_finish_and_bad_ones_are_refused() {
    let network = network(Family::Qwen2, 9).valid();
    let mut engine = engine(&network, 2, 1);
    for id in 0..4 {
        engine.admit(request(id, tokens(id, 8), Sampling::default())).unwrap();
    }
    engine.step().unwrap();
    assert!(engine.cancel(1) && engine.cancel(3) && !engine.cancel(9));
    assert_eq!((engine.active(), engine.waiting()), (1, 1));
    assert_eq!(engine.admit(request(2, vec![3], Sampling::default())), Err(EngineError::DuplicateId { id: 2 }));
    assert_eq!(engine.admit(request(5, vec![], Sampling::default())), Err(EngineError::EmptyPrompt { id: 5 }));
    let unknown = engine.admit(request(5, vec![2, 99], Sampling::default()));
    assert_eq!(unknown, Err(EngineError::UnknownToken { id: 5, token: 99, vocab: 40 }));
    let long = engine.admit(request(5, tokens(1, 200), Sampling::default()));
    assert_eq!(long, Err(EngineError::PromptTooLong { id: 5, tokens: 200, limit: 200 }));
    let ids: Vec<u64> = drain(&mut engine).iter().map(|f| f.id).collect();
    assert_eq!(ids, [0, 2]);
}
