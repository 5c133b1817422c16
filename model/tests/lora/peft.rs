//! PEFT's folders: read with its own results, written as it reads them. Fixtures: `scripts/make_peft_fixtures.py`.

use burn::module::AutodiffModule;
use burn::tensor::{Int, Tensor, TensorData};
use model::learner::Execution;
use model::lora::{Target, peft};
use model::{ModelError, load_weights, save_hf, train_bpe};
use serde_json::{Value, json};

use crate::*;

/// What PEFT wrote.
const THEIRS: [&str; 3] = ["qwen3-all", "llama-qv-rslora", "qwen2-some"];
/// What this library wrote and PEFT read.
const OURS: [&str; 2] = ["ours-llama", "ours-qwen2"];

fn read_json(path: PathBuf) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn rows(expected: &Value) -> Vec<Vec<u32>> {
    serde_json::from_value(expected["tokens"].clone()).unwrap()
}

fn base(name: &str) -> Transformer<Cpu> {
    load_weights::<Cpu>(&fixture(name), &Default::default()).unwrap().1
}

/// All logits, row after row.
fn logits(net: &Transformer<Cpu>, rows: &[Vec<u32>]) -> Vec<f32> {
    let (net, device, shape) = (net.valid(), Default::default(), [rows.len(), rows[0].len()]);
    let flat: Vec<i64> = rows.iter().flatten().map(|t| i64::from(*t)).collect();
    let positions: Vec<i64> = rows.iter().flat_map(|row| 0..row.len() as i64).collect();
    let int = |v: Vec<i64>| Tensor::<model::CpuInner, 2, Int>::from_data(TensorData::new(v, shape), &device);
    net.logits(net.forward(int(flat), int(positions), None)).into_data().iter::<f32>().collect()
}

fn assert_logits(name: &str, net: &Transformer<Cpu>, expected: &Value) {
    let rows = rows(expected);
    let all = logits(net, &rows);
    let shown: Vec<usize> = serde_json::from_value(expected["shown"].clone()).unwrap();
    let (seq, vocab) = (rows[0].len(), net.vocab_size());
    let places = (0..rows.len()).flat_map(|row| shown.iter().map(move |t| row * seq + t));
    let found: Vec<f32> = places.flat_map(|p| all[p * vocab..][..vocab].to_vec()).collect();
    let theirs: Vec<Vec<f32>> = serde_json::from_value(expected["logits"].clone()).unwrap();
    let gap = distance(&found, &theirs.concat());
    assert!(gap < 1e-5, "{name}: logits differ by {gap}");
}

/// `base_model.model.model.layers.0.mlp.up_proj.lora_A.weight` as a checkpoint names it.
fn short(name: &str) -> String {
    let parts: Vec<&str> = name.split('.').collect();
    format!("layers.{}.{}.{}", parts[4], parts[6], parts[7].to_lowercase())
}

/// PEFT computes `x W0 + scale (x A^T) B^T`, unmerged. Planted and seen to fail: `alpha / rank` for `alpha / sqrt(rank)`
/// (llama-qv-rslora), k's columns for q's and up's for gate's, `scale` squared in dB.
#[test]
fn an_adapter_of_pefts_gives_its_logits_its_loss_and_pytorchs_gradients() {
    for name in THEIRS {
        let folder = fixture("peft").join(name);
        let expected = read_json(folder.join("expected.json"));
        let base = base(expected["base"].as_str().unwrap());
        let split = expected["prompt"].as_u64().unwrap() as usize;
        let samples: Vec<SftSample> = rows(&expected)
            .iter()
            .map(|row| SftSample { prompt: row[..split].to_vec(), tokens: row[split..].to_vec() })
            .collect();
        for execution in [Execution::Host, Execution::Autodiff] {
            let mut found = learner(base.clone(), execution).with_adapter(&folder).unwrap();
            assert_logits(name, found.network(), &expected);
            let report = found.sft_step(&samples, 2).unwrap();
            let loss = expected["loss"].as_f64().unwrap();
            assert!((report.loss / loss - 1.0).abs() < 1e-6, "{name}: {} against {loss}", report.loss);
            let theirs = expected["gradients"].as_object().unwrap();
            let moments = saved(&found);
            let ours = moments.iter().filter(|(n, _)| n.starts_with("adam_m/"));
            assert_eq!(ours.clone().count(), theirs.len(), "{name}: the optimizer has what is trained and no more");
            let ours_norm = norm(ours.map(|(_, g)| g));
            assert!((report.grad_norm / ours_norm - 1.0).abs() < 1e-6);
            for (tensor, gradient) in theirs {
                let gradient: Vec<f32> = serde_json::from_value(gradient.clone()).unwrap();
                let gap = distance(&moments[&format!("adam_m/{}", short(tensor))], &gradient);
                assert!(gap < 1e-5, "{name}, {execution:?}: {tensor} differs by {gap}");
            }
        }
    }
}

#[test]
fn what_peft_read_is_to_the_byte_what_is_written() {
    for name in OURS {
        let folder = fixture("peft").join(name);
        let expected = read_json(folder.join("expected.json"));
        let base = base(expected["base"].as_str().unwrap());
        let found = learner(base, Execution::Host).with_adapter(&folder).unwrap();
        assert_logits(name, found.network(), &expected);
        let dir = tempfile::tempdir().unwrap();
        let copy = dir.path().join("adapter");
        for _ in 0..2 {
            // The second replaces the first.
            assert!(found.save_adapter(&copy, expected["base"].as_str().unwrap()).unwrap());
            for file in ["adapter_config.json", "adapter_model.safetensors"] {
                assert!(
                    std::fs::read(copy.join(file)).unwrap() == std::fs::read(folder.join(file)).unwrap(),
                    "{name}: {file}"
                );
            }
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "something temporary was left");
    }
}

#[test]
fn an_adapter_survives_a_folder() {
    for name in THEIRS {
        let folder = fixture("peft").join(name);
        let base = base(read_json(folder.join("expected.json"))["base"].as_str().unwrap());
        let dir = tempfile::tempdir().unwrap();
        let (config, adapters) = peft::read(&folder, &base).unwrap();
        peft::write(&dir.path().join("a"), &config, &adapters, "somewhere/else").unwrap();
        let (again, _) = peft::read(&dir.path().join("a"), &base).unwrap();
        assert_eq!(again, config, "{name}");
        let file = "adapter_model.safetensors";
        assert_eq!(tensors(&dir.path().join("a").join(file)), tensors(&folder.join(file)), "{name}");
        assert_eq!(read_json(dir.path().join("a/adapter_config.json"))["base_model_name_or_path"], "somewhere/else");
    }
    let settings = |name: &str| peft::read(&fixture("peft").join(name), &base("qwen3-sharded")).map(|(c, _)| c);
    let all = settings("qwen3-all").unwrap();
    assert_eq!((all.rank, all.alpha, all.rslora, &all.targets[..]), (4, 8.0, false, &Target::ALL[..]));
    let dir = tempfile::tempdir().unwrap();
    assert!(!learner(base("qwen3-sharded"), Execution::Host).save_adapter(&dir.path().join("a"), "x").unwrap());
    assert!(!dir.path().join("a").exists());
}

/// Reads `qwen3-all` after an edit of its settings.
fn edited(edit: impl Fn(&mut Value)) -> (ModelError, String) {
    let (dir, folder) = (tempfile::tempdir().unwrap(), fixture("peft/qwen3-all"));
    let mut config = read_json(folder.join("adapter_config.json"));
    edit(&mut config);
    std::fs::write(dir.path().join("adapter_config.json"), config.to_string()).unwrap();
    std::fs::copy(folder.join("adapter_model.safetensors"), dir.path().join("adapter_model.safetensors")).unwrap();
    let error = peft::read(dir.path(), &base("qwen3-sharded")).unwrap_err();
    let text = error.to_string();
    (error, text)
}

#[test]
fn what_is_no_plain_lora_is_refused_by_its_key() {
    let edits = [
        ("peft_type", json!("IA3")),
        ("use_dora", json!(true)),
        ("bias", json!("all")),
        ("modules_to_save", json!(["embed_tokens"])),
        ("rank_pattern", json!({"q_proj": 8})),
        ("alpha_pattern", json!({"q_proj": 8})),
        ("fan_in_fan_out", json!(true)),
        ("init_lora_weights", json!("pissa")),
        ("layer_replication", json!([[0, 1]])),
        ("r", json!(0)),
        ("r", json!("four")),
        ("lora_alpha", json!(-1)),
    ];
    for (key, value) in edits {
        let (error, text) = edited(|c| c[key] = value.clone());
        assert!(matches!(&error, ModelError::BadKey { key: found, .. } if **found == *key), "{key}: {text}");
        assert!(text.contains("adapter_config.json") && text.contains("hint"), "{text}");
    }
    let (error, text) = edited(|c| c["r"] = json!(5));
    assert!(
        matches!(error, ModelError::BadTensor { .. }) && text.contains("[4, 16]") && text.contains("[5, 16]"),
        "{text}"
    );
    let (_, text) = edited(|c| c["r"] = json!(17));
    assert!(text.contains("key `r` is 17") && text.contains("lora.rank = 17"), "{text}");
}

#[test]
fn files_that_do_not_fit_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let text = |network: &Transformer<Cpu>| peft::read(dir.path(), network).unwrap_err().to_string();
    let net = base("qwen3-sharded");
    assert!(text(&net).contains("adapter_config.json is missing"), "{}", text(&net));
    let folder = fixture("peft/qwen3-all");
    std::fs::copy(folder.join("adapter_config.json"), dir.path().join("adapter_config.json")).unwrap();
    assert!(text(&net).contains("adapter_model.safetensors is missing"), "{}", text(&net));
    std::fs::copy(folder.join("adapter_model.safetensors"), dir.path().join("adapter_model.safetensors")).unwrap();
    // One layer less: what belongs to the second has no place. One more: it has none there.
    let mut short = net.clone();
    short.layers.pop();
    assert!(
        text(&short).contains("model.layers.1.mlp.down_proj.lora_A.weight` has a place in no layer"),
        "{}",
        text(&short)
    );
    let mut long = net.clone();
    long.layers.push(net.layers[0].clone());
    assert!(text(&long).contains("model.layers.2.self_attn.q_proj.lora_A.weight` is missing"), "{}", text(&long));
    let error = learner(long, Execution::Host).with_adapter(dir.path()).err().unwrap();
    assert!(matches!(error, ModelError::MissingTensor { .. }));
}

/// Writes folders for `scripts/make_peft_fixtures.py check DIR`:
/// `OUT=DIR cargo test --release -p model --test lora -- --ignored folders_for_peft`.
#[test]
#[ignore = "a PEFT installation has to read what it writes"]
fn folders_for_peft() {
    let out = PathBuf::from(std::env::var("OUT").unwrap());
    let tokenizer = train_bpe(&[], 263).unwrap();
    let cases = [
        ("ours-qwen3", "qwen3-sharded", &Target::ALL[..], false),
        ("ours-llama", "llama-untied", &[Target::VProj, Target::OProj, Target::UpProj], false),
        ("ours-qwen2", "qwen2-tied", &[Target::QProj, Target::KProj, Target::DownProj], true),
    ];
    for (name, base, targets, rslora) in cases {
        let (config, network) = load_weights::<Cpu>(&fixture(base), &Default::default()).unwrap();
        let settings = LoraConfig { rank: 3, alpha: 4.5, targets: targets.to_vec(), rslora };
        let mut learner = Learner::new(network, OptimConfig { lr: 0.02, ..OptimConfig::default() });
        learner = learner.with_lora(&settings, 11).unwrap();
        for _ in 0..30 {
            learner.sft_step(&examples(), 4).unwrap();
        }
        let folder = out.join(name);
        learner.save_adapter(&folder.join("adapter"), base).unwrap();
        save_hf(&folder.join("merged"), &config, learner.network(), &tokenizer).unwrap();
        let tokens: Vec<Vec<u32>> = (0..2).map(|i| policy::tokens(400 + i, 24)).collect();
        let rows: Vec<Vec<f32>> = logits(learner.network(), &tokens).chunks(40).map(<[f32]>::to_vec).collect();
        let ours = json!({"base": base, "tokens": tokens, "logits": rows});
        std::fs::write(folder.join("ours.json"), ours.to_string()).unwrap();
    }
}
