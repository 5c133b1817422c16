//! GGUF files that are broken or made to break a reader: an error that says where, what was found and what was expected.
//!
//! Sizes that a file only claims are near the end of the range here: a reader that made room for one would be killed.

use model::load_hf;

use crate::gguf_writer::{GgufWriter, TensorPart, float, int, list, text};
use crate::*;

/// The error of a file.
fn refusal(dir: &std::path::Path, bytes: &[u8]) -> String {
    let path = dir.join("model.gguf");
    std::fs::write(&path, bytes).unwrap();
    let text = match load_hf::<B>(&path, &Default::default()) {
        Err(error) => error.to_string(),
        Ok(_) => panic!("a broken file was read"),
    };
    assert!(text.contains("model.gguf") && text.contains("\n  hint: "), "{text}");
    text
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let whole = GgufWriter::whole().bytes();
    for keep in 0..whole.len() {
        let text = refusal(dir.path(), &whole[..keep]);
        assert!(text.contains("expected") && text.contains("truncated"), "{keep} bytes: {text}");
    }
}

/// One byte at a time: an error or a model, never a panic.
#[test]
fn no_changed_byte_of_the_header_is_a_panic() {
    let dir = tempfile::tempdir().unwrap();
    let whole = GgufWriter::whole().bytes();
    let path = dir.path().join("model.gguf");
    let header = whole.len() - 4 * 8 * 60;
    let mut refused = 0;
    for at in 0..header.min(whole.len()) {
        for mask in [0x01, 0x80, 0xff] {
            let mut bytes = whole.clone();
            bytes[at] ^= mask;
            std::fs::write(&path, &bytes).unwrap();
            refused += usize::from(load_hf::<B>(&path, &Default::default()).is_err());
        }
    }
    assert!(refused > header, "{refused} of {} changes were refused", 3 * header);
}

type Change = fn(&mut GgufWriter);

fn claim(kind: u32, length: u64) -> Vec<u8> {
    match kind {
        8 => [&8u32.to_le_bytes()[..], &length.to_le_bytes()].concat(),
        _ => [&9u32.to_le_bytes()[..], &kind.to_le_bytes(), &length.to_le_bytes()].concat(),
    }
}

/// What is in the file, and the words that its error must have: the place, what was found, what was expected.
#[test]
fn every_defect_has_its_own_error() {
    const HUGE: u64 = u64::MAX - 7;
    let cases: Vec<(&str, Change, &[&str])> = vec![
        ("magic", |f| f.magic = *b"PK\x03\x04", &["magic number is \"PK", "expected \"GGUF\"", "another kind"]),
        ("version", |f| f.version = 1, &["version is 1", "expected 2 or 3"]),
        ("big-endian", |f| f.version = 3u32.swap_bytes(), &["version is 50331648", "big-endian"]),
        ("keys claimed", |f| f.counts = Some((11, HUGE)), &["name of key", "left of the file"]),
        ("tensors claimed", |f| f.counts = Some((HUGE, 14)), &["no GGUF file", "truncated"]),
        (
            "text claimed",
            |f| f.set("general.name", claim(8, HUGE)),
            &["key `general.name`", "18446744073709551608 bytes"],
        ),
        ("list claimed", |f| f.set("general.tags", claim(8, HUGE)), &["key `general.tags`", "18446744073709551608"]),
        ("list of bytes", |f| f.set("x", claim(0, 1 << 40)), &["key `x`", "a list of 1099511627776 entries"]),
        (
            "nested lists",
            |f| {
                let mut value = claim(9, 1);
                (0..9000).for_each(|_| value.extend([&9u32.to_le_bytes()[..], &1u64.to_le_bytes()].concat()));
                f.set("x", value);
            },
            &["key `x`", "depth 4"],
        ),
        ("value type", |f| f.set("x", 13u32.to_le_bytes().to_vec()), &["key `x` is of type 13", "from 0 to 12"]),
        ("truth value", |f| f.set("x", [&7u32.to_le_bytes()[..], &[7]].concat()), &["key `x` is the byte 7", "0 or 1"]),
        (
            "no UTF-8",
            |f| {
                f.set("x", [&8u32.to_le_bytes()[..], &2u64.to_le_bytes(), &[0xff, 0xfe]].concat());
            },
            &["key `x`", "UTF-8"],
        ),
        ("a key twice", |f| f.keys.push(("general.architecture".into(), text("qwen2"))), &["there twice"]),
        ("alignment 0", |f| f.set("general.alignment", int(0)), &["key `general.alignment` is 0", "power of two"]),
        ("alignment 24", |f| f.set("general.alignment", int(24)), &["key `general.alignment` is 24"]),
        ("axes", |f| f.tensor("output_norm.weight").shape = vec![1; 9], &["tensor `output_norm.weight` is of 9 axes"]),
        ("tensor type", |f| f.tensor("output_norm.weight").kind = 23, &["IQ4_XS (23)", "Q4_K", "Q8_0 or the Q4_K_M"]),
        ("no such type", |f| f.tensor("output_norm.weight").kind = 99, &["of type 99, which is unknown"]),
        ("row of half a block", |f| f.tensor("output_norm.weight").kind = 8, &["shape [8]", "multiple of 32"]),
        (
            "shape claimed",
            |f| f.tensor("token_embd.weight").shape = vec![HUGE, 8],
            &["token_embd.weight", "within the file"],
        ),
        (
            "shape beyond",
            |f| f.tensor("token_embd.weight").shape = vec![1 << 40, 8],
            &["token_embd.weight", "within the file"],
        ),
        ("offset beyond", |f| f.tensor("blk.0.attn_q.weight").offset = Some(HUGE), &["attn_q", "within the file"]),
        (
            "a tensor twice",
            |f| {
                let t = f.tensors[1].clone();
                f.tensors.push(t)
            },
            &["output_norm.weight", "there twice"],
        ),
        (
            "architecture",
            |f| f.set("general.architecture", text("gemma3")),
            &["key `general.architecture` is \"gemma3\"", "qwen3"],
        ),
        ("no architecture", |f| f.remove("general.architecture"), &["key `general.architecture` is missing"]),
        ("experts", |f| f.set("llama.expert_count", int(8)), &["key `llama.expert_count` is 8", "experts"]),
        ("split", |f| f.set("split.count", int(3)), &["key `split.count` is 3", "join"]),
        ("window", |f| f.set("llama.attention.sliding_window", int(8)), &["sliding_window` is 8"]),
        (
            "no layers key",
            |f| f.remove("llama.block_count"),
            &["key `llama.block_count` is missing", "positive whole number"],
        ),
        ("a text as size", |f| f.set("llama.block_count", text("two")), &["key `llama.block_count` is \"two\""]),
        (
            "layers claimed",
            |f| f.set("llama.block_count", int(1 << 30)),
            &["tensor `blk.1.attn_norm.weight` is missing"],
        ),
        (
            "size of a head",
            |f| f.set("llama.attention.key_length", int(1 << 30)),
            &["attn_q", "shape", "[2147483648, 8]"],
        ),
        ("odd head", |f| f.set("llama.attention.key_length", int(3)), &["key_length` is 3", "even"]),
        (
            "half rotation",
            |f| f.set("llama.rope.dimension_count", int(2)),
            &["rope.dimension_count` is 2", "expected 4"],
        ),
        ("kv heads", |f| f.set("llama.attention.head_count_kv", int(3)), &["head_count_kv` is 3", "divisor of the 2"]),
        (
            "layers differ",
            |f| f.set("llama.feed_forward_length", list(&[int(12), int(8)])),
            &["a list of 2", "one number"],
        ),
        ("width", |f| f.set("llama.embedding_length", int(16)), &["embedding_length` is 16", "8, the width"]),
        (
            "MLP claimed",
            |f| f.set("llama.feed_forward_length", int(1 << 30)),
            &["ffn_gate", "[12, 8]", "[1073741824, 8]"],
        ),
        ("epsilon", |f| f.set("llama.attention.layer_norm_rms_epsilon", float(f32::NAN)), &["rms_epsilon` is NaN"]),
        (
            "scaling",
            |f| f.set("llama.rope.scaling.type", text("longrope")),
            &["rope.scaling.type` is \"longrope\"", "yarn"],
        ),
        (
            "refined scaling",
            |f| f.set("llama.rope.scaling.attn_factor", float(2.0)),
            &["rope.scaling.attn_factor` is 2"],
        ),
        (
            "factors",
            |f| {
                f.tensors.push(TensorPart {
                    name: "rope_freqs.weight".into(),
                    shape: vec![2],
                    kind: 0,
                    bytes: [3f32, 5.0].iter().flat_map(|x| x.to_le_bytes()).collect(),
                    offset: None,
                })
            },
            &["rope_freqs.weight", "other factors"],
        ),
        (
            "another part",
            |f| f.tensor("blk.0.ffn_up.weight").name = "blk.0.ffn_gate_inp.weight".into(),
            &["ffn_gate_inp", "lacks"],
        ),
        (
            "bias of one",
            |f| f.tensor("blk.0.ffn_up.weight").name = "blk.0.ffn_up.bias".into(),
            &["blk.0.ffn_up.bias", "lacks"],
        ),
        (
            "a part missing",
            |f| f.tensors.retain(|t| t.name != "blk.0.ffn_down.weight"),
            &["`blk.0.ffn_down.weight` is missing"],
        ),
        ("no embedding", |f| f.tensors.retain(|t| t.name != "token_embd.weight"), &["`token_embd.weight` is missing"]),
        (
            "no tokenizer",
            |f| f.keys.retain(|(k, _)| !k.starts_with("tokenizer")),
            &["key `tokenizer.ggml.model` is missing", "gpt2"],
        ),
        (
            "SentencePiece",
            |f| f.set("tokenizer.ggml.model", text("llama")),
            &["tokenizer.ggml.model` is \"llama\"", "byte-level"],
        ),
        (
            "cut unknown",
            |f| f.set("tokenizer.ggml.pre", text("viking")),
            &["tokenizer.ggml.pre` is \"viking\"", "smollm"],
        ),
        ("no tokens", |f| f.remove("tokenizer.ggml.tokens"), &["key `tokenizer.ggml.tokens` is missing", "a list"]),
        (
            "a token twice",
            |f| f.set("tokenizer.ggml.tokens", list(&["a", "b", "a"].map(text))),
            &["tokens[2]` is \"a\"", "entry 0"],
        ),
        ("tokens of numbers", |f| f.set("tokenizer.ggml.tokens", list(&[int(1)])), &["tokens[0]` is 1", "a text"]),
        (
            "merge of nothing",
            |f| f.set("tokenizer.ggml.merges", list(&[text("a a")])),
            &["merges[0]` is \"a a\"", "two tokens"],
        ),
        (
            "end beyond",
            |f| f.set("tokenizer.ggml.eos_token_id", int(9)),
            &["eos_token_id` is 9", "one of the 3 tokens"],
        ),
        (
            "more tokens than rows",
            |f| {
                f.set("tokenizer.ggml.tokens", list(&["a", "b", "ab", "c"].map(text)));
                f.set("tokenizer.ggml.token_type", list(&[1, 1, 1, 1].map(int)));
            },
            &["rows of token_embd.weight` is 3", "at least 4"],
        ),
        (
            "fewer kinds than tokens",
            |f| f.set("tokenizer.ggml.token_type", list(&[1, 3].map(int))),
            &["token_type` is a list of 2", "each of the 3 tokens"],
        ),
    ];
    let dir = tempfile::tempdir().unwrap();
    let mut wrong = Vec::new();
    for (what, change, words) in cases {
        let mut file = GgufWriter::whole();
        change(&mut file);
        let text = refusal(dir.path(), &file.bytes());
        let missing = words.iter().filter(|word| !text.contains(*word));
        wrong.extend(missing.map(|word| format!("{what}: `{word}` is missing in:\n{text}\n")));
    }
    assert!(wrong.is_empty(), "{}", wrong.concat());
}
