//! Cached decoding equals the full forward pass, whatever else is in the batch.
//!
//! Planted once and seen to fail: a mask that shows one column too many, a compaction that leaves a row where it was.

use model::network::{KvCache, Transformer};
use model::{ModelConfig, load_weights};

use crate::*;

/// f32, other shapes of the same products: only the order of sums differs.
const TOLERANCE: f32 = 2e-5;

fn some_tokens(n: usize, salt: u64, vocab: usize) -> Vec<u32> {
    let mut state = salt.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize
    };
    (0..n).map(|_| (next() % vocab) as u32).collect()
}

/// One row's logits of a full pass.
fn reference(network: &Transformer<B>, text: &[u32]) -> Vec<Vec<f32>> {
    full_logits(network, &[text.to_vec()])
}

/// Feeds one token to each of the rows and compares with the full pass over each row's own text.
fn step(network: &Transformer<B>, cache: &mut KvCache<B>, texts: &mut [Vec<u32>], salt: u64, what: &str) {
    let vocab = network.vocab_size();
    let new: Vec<Vec<u32>> =
        texts.iter().enumerate().map(|(i, _)| some_tokens(1, salt * 131 + i as u64, vocab)).collect();
    let rows = 0..texts.len();
    let hidden = network.forward_cached(tokens(&new), cache, rows, &vec![1; texts.len()]);
    let found = to_rows(network.logits(hidden));
    for (i, text) in texts.iter_mut().enumerate() {
        text.extend(&new[i]);
        let gap = worst(&found[i], reference(network, text).last().unwrap());
        assert!(gap < TOLERANCE, "{what}: row {i} of length {} is off by {gap}", text.len());
    }
    assert_eq!(cache.lengths(), texts.iter().map(Vec::len).collect::<Vec<_>>());
}

/// Appends rows, prompts padded on the right with a token that must not matter.
fn admit(network: &Transformer<B>, cache: &mut KvCache<B>, texts: &mut Vec<Vec<u32>>, prompts: &[Vec<u32>]) {
    let longest = prompts.iter().map(Vec::len).max().unwrap();
    let padded: Vec<Vec<u32>> = prompts
        .iter()
        .map(|prompt| prompt.iter().copied().chain(std::iter::repeat(7)).take(longest).collect())
        .collect();
    let counts: Vec<usize> = prompts.iter().map(Vec::len).collect();
    let rows = cache.add_rows(prompts.len());
    let hidden = network.forward_cached(tokens(&padded), cache, rows, &counts);
    let found = to_rows(network.logits(hidden));
    for (i, prompt) in prompts.iter().enumerate() {
        let expected = reference(network, prompt);
        for t in 0..prompt.len() {
            let gap = worst(&found[i * longest + t], &expected[t]);
            assert!(gap < TOLERANCE, "prompt {i}, position {t} is off by {gap}");
        }
    }
    texts.extend(prompts.iter().cloned());
}

/// Rows join, decode at their own lengths, leave and are copied, in every family.
#[test]
fn rows_that_come_and_go_equal_the_full_pass() {
    for case in CASES {
        let (_, network) = load_weights::<B>(&fixture(case), &Default::default()).unwrap();
        let config = load_weights::<B>(&fixture(case), &Default::default()).unwrap().0;
        let mut cache = KvCache::new(&config, &Default::default());
        let mut texts = Vec::new();
        let vocab = config.vocab_size;
        let prompts: Vec<Vec<u32>> = [3, 9, 1, 6].iter().map(|n| some_tokens(*n, *n as u64, vocab)).collect();
        admit(&network, &mut cache, &mut texts, &prompts);
        for salt in 0..3 {
            step(&network, &mut cache, &mut texts, salt, case);
        }
        cache.retain_rows(&[1, 3]);
        texts = vec![texts[1].clone(), texts[3].clone()];
        step(&network, &mut cache, &mut texts, 10, case);
        admit(&network, &mut cache, &mut texts, &[some_tokens(12, 99, vocab), some_tokens(2, 98, vocab)]);
        let copies = cache.clone_row(2, 3);
        assert_eq!(copies, 4..7);
        texts.extend(std::iter::repeat_n(texts[2].clone(), 3));
        for salt in 20..22 {
            step(&network, &mut cache, &mut texts, salt, case);
        }
        cache.retain_rows(&[0, 2, 5, 6]);
        texts = [0, 2, 5, 6].iter().map(|i| texts[*i].clone()).collect();
        step(&network, &mut cache, &mut texts, 30, case);
        cache.retain_rows(&[]);
        texts.clear();
        // Leftovers of earlier rows must not be seen by new ones.
        admit(&network, &mut cache, &mut texts, &[some_tokens(4, 50, vocab)]);
        step(&network, &mut cache, &mut texts, 40, case);
    }
}

/// The cache grows past its first columns; several tokens at once continue a row.
#[test]
fn long_rows_and_chunks_equal_the_full_pass() {
    let shape = model::config::TinyShape { hidden: 32, layers: 2, heads: 4, kv_heads: 2, ff: 48, vocab: 300 };
    let config = ModelConfig::tiny_default(shape, 512, vec![1]);
    let network = config.init::<B>(3, &Default::default());
    let text = some_tokens(201, 5, 300);
    let expected = reference(&network, &text);
    let mut cache = KvCache::new(&config, &Default::default());
    let row = cache.add_rows(1);
    let mut done = 0;
    for chunk in [60usize, 1, 1, 1, 1, 70, 66, 1] {
        let part = vec![text[done..done + chunk].to_vec()];
        let found = to_rows(network.logits(network.forward_cached(tokens(&part), &mut cache, row.clone(), &[chunk])));
        for (i, logits) in found.iter().enumerate() {
            let gap = worst(logits, &expected[done + i]);
            assert!(gap < TOLERANCE, "position {} is off by {gap}", done + i);
        }
        done += chunk;
    }
    assert_eq!(done, text.len());
}

/// Neither the neighbours of a row nor padding after it change its logits.
#[test]
fn batch_composition_and_padding_change_nothing() {
    for case in CASES {
        let (config, network) = load_weights::<B>(&fixture(case), &Default::default()).unwrap();
        let texts: Vec<Vec<u32>> =
            [11, 20, 5, 16].iter().map(|n| some_tokens(*n, 7 + *n as u64, config.vocab_size)).collect();
        for filler in [0u32, 39] {
            let padded: Vec<Vec<u32>> = texts
                .iter()
                .map(|text| text.iter().copied().chain(std::iter::repeat(filler)).take(23).collect())
                .collect();
            let found = full_logits(&network, &padded);
            for (i, text) in texts.iter().enumerate() {
                let gap = worst(&found[i * 23..i * 23 + text.len()].concat(), &reference(&network, text).concat());
                assert!(gap < TOLERANCE, "{case}: row {i} with padding {filler} is off by {gap}");
            }
        }
    }
}
