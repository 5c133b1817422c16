//! Logits and log-probs equal those of transformers for every family, rope scaling, head, dtype and sharding.

use model::load_weights;

use crate::*;

/// Fixtures are rounded to five decimals; both sides compute in f32. Weights are far larger than a trained network's, so
/// that an error of a percent anywhere moves logits by tenths.
pub const TOLERANCE: f32 = 1e-4;

pub fn rows_of(value: &serde_json::Value) -> Vec<Vec<f32>> {
    let row = |row: &serde_json::Value| row.as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect();
    value.as_array().unwrap().iter().map(row).collect()
}

pub fn token_rows(value: &serde_json::Value) -> Vec<Vec<u32>> {
    rows_of(value).into_iter().map(|row| row.into_iter().map(|x| x as u32).collect()).collect()
}

pub fn expected_tokens(case: &str) -> Vec<Vec<u32>> {
    token_rows(&json(fixture(case).join("expected.json"))["tokens"])
}

pub fn log_softmax(row: &[f32]) -> Vec<f32> {
    let top = row.iter().copied().fold(f32::MIN, f32::max);
    let total: f32 = row.iter().map(|x| (x - top).exp()).sum();
    row.iter().map(|x| x - top - total.ln()).collect()
}

#[test]
fn logits_and_log_probs_equal_transformers() {
    for case in CASES {
        let (_, network) = load_weights::<B>(&fixture(case), &Default::default()).unwrap();
        let expected = json(fixture(case).join("expected.json"));
        let rows = token_rows(&expected["tokens"]);
        let seq = rows[0].len();
        let found = full_logits(&network, &rows);
        let shown: Vec<usize> =
            expected["shown"].as_array().unwrap().iter().map(|x| x.as_u64().unwrap() as usize).collect();
        let logits = rows_of(&expected["logits"]);
        let log_probs = rows_of(&expected["following_logprobs"]);
        for (b, row) in rows.iter().enumerate() {
            for (i, &t) in shown.iter().enumerate() {
                let gap = worst(&found[b * seq + t], &logits[b * shown.len() + i]);
                assert!(gap < TOLERANCE, "{case}: row {b}, position {t}: logits are off by {gap}");
            }
            let mine: Vec<f32> = (1..seq).map(|t| log_softmax(&found[b * seq + t - 1])[row[t] as usize]).collect();
            let gap = worst(&mine, &log_probs[b]);
            assert!(gap < TOLERANCE, "{case}: row {b}: log-probs are off by {gap}");
        }
    }
}

/// The comparison above would see each of these mistakes.
#[test]
fn small_mistakes_show() {
    type Change = fn(&mut model::ModelConfig);
    let changes: [(&str, &str, Change); 6] = [
        ("llama-untied", "base of the rotation", |c| c.rope_theta *= 1.05),
        ("llama-untied", "epsilon of the norms", |c| c.rms_norm_eps = 1e-2),
        ("llama-linear", "no linear scaling", |c| c.rope_scaling = None),
        ("llama-llama3", "no llama3 scaling", |c| c.rope_scaling = None),
        ("qwen2-yarn", "no yarn scaling", |c| c.rope_scaling = None),
        ("qwen3-tied-yarn", "no yarn scaling", |c| c.rope_scaling = None),
    ];
    for (case, what, change) in changes {
        let dir = tempfile::tempdir().unwrap();
        let (mut config, network) = load_weights::<B>(&fixture(case), &Default::default()).unwrap();
        let rows = expected_tokens(case);
        let right = full_logits(&network, &rows).concat();
        change(&mut config);
        let tokenizer = model::train_bpe(&[], 263).unwrap();
        model::save_hf(&dir.path().join("changed"), &config, &network, &tokenizer).unwrap();
        let (_, changed) = load_weights::<B>(&dir.path().join("changed"), &Default::default()).unwrap();
        let gap = worst(&full_logits(&changed, &rows).concat(), &right);
        assert!(gap > 20.0 * TOLERANCE, "{case}: {what} moves logits by {gap} only");
    }
}

/// A published checkpoint against transformers: `MODEL=folder REF=file.json`, where the file holds what
/// `scripts/make_model_fixtures.py reference MODEL` printed.
#[test]
#[ignore = "needs a downloaded model"]
fn a_real_checkpoint_equals_transformers() {
    let var = |name: &str| std::path::PathBuf::from(std::env::var(name).unwrap());
    let expected = json(var("REF"));
    let loaded = model::load_hf::<B>(&var("MODEL"), &Default::default()).unwrap();
    let message = |role: &str, content: &str| model::Message { role: role.into(), content: content.into() };
    let messages: Vec<model::Message> = expected["messages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| message(m["role"].as_str().unwrap(), m["content"].as_str().unwrap()))
        .collect();
    let text = loaded.tokenizer.render_chat(&messages, true).unwrap();
    assert_eq!(text, expected["text"].as_str().unwrap());
    let ids = loaded.tokenizer.encode(&text).unwrap();
    assert_eq!(token_rows(&serde_json::json!([expected["tokens"]]))[0], ids);
    assert_eq!(loaded.tokenizer.decode(&ids).unwrap(), text);
    let found = full_logits(&loaded.network, &[ids]).pop().unwrap();
    let gap = worst(&found, &rows_of(&serde_json::json!([expected["logits"]]))[0]);
    println!("eos {:?}, logits differ by {gap}", loaded.config.eos_token_ids);
    assert!(gap < 10.0 * TOLERANCE);
}
