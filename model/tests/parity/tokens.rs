//! Tokens and text: every text round-trips, lines become tokens, the end of the plan is found byte for byte.

use model::{Message, Tokenizer, train_bpe};

fn corpus() -> Vec<String> {
    let kernel = |op: &str, size: usize| {
        format!(
            "<think>one program per block of {size}; {op} each element\n</think>\n```python\nimport torch\nimport triton\n\
             import triton.language as tl\n\n@triton.jit\ndef kernel(x_ptr, y_ptr, n, BLOCK: tl.constexpr):\n    \
             offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)\n    mask = offs < n\n    \
             x = tl.load(x_ptr + offs, mask=mask)\n    tl.store(y_ptr + offs, {op}(x), mask=mask)\n```\n"
        )
    };
    ["tl.exp", "tl.log", "tl.sqrt", "tl.abs"].iter().flat_map(|op| [64, 128, 256].map(|s| kernel(op, s))).collect()
}

fn trained() -> Tokenizer {
    train_bpe(&corpus(), 512).unwrap()
}

/// Random text from pieces that are awkward: unicode, controls, marks cut in half, spaces, broken lines.
fn awkward_text(seed: u64) -> String {
    const PIECES: [&str; 24] = [
        "a",
        " ",
        "  ",
        "\n",
        "\r\n",
        "\t",
        "é",
        "中文",
        "🦀",
        "\u{0}",
        "\u{7f}",
        "\u{a0}",
        "\u{2028}",
        "</think>",
        "<think>",
        "</thi",
        "nk>",
        "<|end|>",
        "<|",
        "import torch\n",
        "    x = tl.load(x_ptr + offs, mask=mask)\n",
        "Ġ",
        "e\u{301}",
        "0",
    ];
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = |n: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % n
    };
    let mut text = String::new();
    for _ in 0..next(40) {
        match next(4) {
            0 => text.extend(char::from_u32(next(0x11_0000) as u32)),
            _ => text.push_str(PIECES[next(PIECES.len())]),
        }
    }
    text
}

#[test]
fn any_text_round_trips() {
    let tokenizer = trained();
    for seed in 0..3000 {
        let text = awkward_text(seed);
        let tokens = tokenizer.encode(&text).unwrap();
        assert_eq!(tokenizer.decode(&tokens).unwrap(), text, "seed {seed}");
        let bytes: Vec<u8> = tokens.iter().flat_map(|id| tokenizer.token_bytes(*id).to_vec()).collect();
        assert_eq!(bytes, text.as_bytes(), "seed {seed}: bytes of tokens");
        assert_eq!(tokenizer.encode(&tokenizer.decode(&tokens).unwrap()).unwrap(), tokens, "seed {seed}: canonical");
    }
}

#[test]
fn lines_of_code_become_tokens() {
    let tokenizer = trained();
    for line in
        ["import triton.language as tl\n", "    x = tl.load(x_ptr + offs, mask=mask)\n", "    mask = offs < n\n"]
    {
        let tokens = tokenizer.encode(line).unwrap();
        assert_eq!(tokens.len(), 1, "{line:?} is {tokens:?}");
    }
    // Every line of the code occurs three times or more in the corpus; a line break or a blank line belongs to the
    // line after it.
    let text = &corpus()[0];
    let tokens = tokenizer.encode(text).unwrap();
    let plan = tokenizer.plan_tokens(&tokens).unwrap() as usize;
    let code = text.split("</think>").nth(1).unwrap();
    assert_eq!(tokens.len() - plan, code.lines().filter(|line| !line.is_empty()).count(), "{tokens:?}");
}

#[test]
fn training_is_deterministic_and_survives_a_folder() {
    let dir = tempfile::tempdir().unwrap();
    let text = corpus().concat();
    let first = trained();
    first.save(dir.path()).unwrap();
    for _ in 0..3 {
        let again = trained();
        assert_eq!(again.vocab_size(), first.vocab_size());
        assert!((0..first.vocab_size() as u32).all(|id| again.token_bytes(id) == first.token_bytes(id)));
        assert_eq!(again.encode(&text).unwrap(), first.encode(&text).unwrap());
    }
    let read = Tokenizer::from_dir(dir.path()).unwrap();
    assert_eq!(read.encode(&text).unwrap(), first.encode(&text).unwrap());
    assert_eq!(read.eos_token_ids(), first.eos_token_ids());
    let message = [Message { role: "user".into(), content: "add".into() }];
    assert_eq!(read.render_chat(&message, true).unwrap(), "<|user|>add<|end|><|assistant|>");
    assert_eq!(read.encode_chat(&message, true).unwrap(), first.encode_chat(&message, true).unwrap());
}

#[test]
fn a_vocabulary_without_room_for_bytes_is_refused() {
    let error = train_bpe(&corpus(), 200).unwrap_err().to_string();
    assert!(error.contains("200") && error.contains("263"), "{error}");
}

#[test]
fn the_plan_ends_with_the_token_that_completes_the_mark() {
    let tokenizer = trained();
    let encode = |text: &str| tokenizer.encode(text).unwrap();
    let mark = encode("</think>");
    assert_eq!(mark.len(), 1, "the mark is one token");
    let plan = encode("<think>plan\n");
    let whole = [plan.clone(), mark.clone(), encode("code </think>")].concat();
    assert_eq!(tokenizer.plan_tokens(&whole), Some(plan.len() as u32 + 1), "the first mark counts");
    assert_eq!(tokenizer.plan_tokens(&plan), None);
    assert_eq!(tokenizer.plan_tokens(&[]), None);

    // A policy may spell the mark out in smaller tokens, and join its ends to other text.
    let byte = |b: u8| (0..tokenizer.vocab_size() as u32).find(|id| tokenizer.token_bytes(*id) == [b]).unwrap();
    let spelled: Vec<u32> = "a</think>b".bytes().map(byte).collect();
    assert_eq!(tokenizer.plan_tokens(&spelled), Some(9));
    let restarted: Vec<u32> = "<</</think>".bytes().map(byte).collect();
    assert_eq!(tokenizer.plan_tokens(&restarted), Some(11));
    let cut: Vec<u32> = "</think".bytes().map(byte).chain([mark[0]]).collect();
    assert_eq!(tokenizer.plan_tokens(&cut), Some(8), "a mark after most of one");
}

/// Merges across the mark's ends: the token that completes it is the last of the plan.
#[test]
fn a_mark_inside_larger_tokens_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let file = serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false},
        "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false},
        "model": {"type": "WordLevel", "unk_token": "?", "vocab": {"?": 0, "so</th": 1, "ink>Ċ": 2, "Ċ": 3, "ink": 4, ">x": 5}},
    });
    std::fs::write(dir.path().join("tokenizer.json"), file.to_string()).unwrap();
    let tokenizer = Tokenizer::from_dir(dir.path()).unwrap();
    assert_eq!(tokenizer.token_bytes(2), b"ink>\n");
    assert_eq!(tokenizer.plan_tokens(&[3, 1, 2, 3]), Some(3));
    assert_eq!(tokenizer.plan_tokens(&[1, 4, 5, 3]), Some(3));
    assert_eq!(tokenizer.plan_tokens(&[1, 3, 2]), None);
}

#[test]
fn answers_lose_their_end_mark_only() {
    let tokenizer = trained();
    let mut tokens = tokenizer.encode("x<|end|>y").unwrap();
    tokens.push(tokenizer.eos_token_ids()[0]);
    assert_eq!(tokenizer.decode_answer(&tokens).unwrap(), "x<|end|>y");
    assert_eq!(tokenizer.decode(&tokens).unwrap(), "x<|end|>y<|end|>");
}
