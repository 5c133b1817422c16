//! Trains the tokenizer of the embedded policy: byte-level BPE with a few merges, and whole source lines as added tokens.
//!
//! Kernels are full of lines that repeat word for word. A line that occurs often is one token, added after training (no merge
//! ever spans it); whatever is left is spelt with bytes and `MERGES` merges, none of which crosses the end of a line. Answers
//! become a few times shorter than with a tokenizer of a published model, and every text still has an encoding (all bytes are
//! tokens).

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, SplitDelimiterBehavior};

use crate::error::ModelError;
use crate::tokenizer::{THINK_END, Tokenizer};

/// Ends a turn; the end-of-sequence token of the embedded policy.
pub const END: &str = "<|end|>";
/// Fills rows of a batch; never inside a text.
pub const PAD: &str = "<|pad|>";
const ROLES: [&str; 3] = ["<|system|>", "<|user|>", "<|assistant|>"];
const THINK: &str = "<think>";

/// One marker a turn: as short as a chat template can be.
const CHAT_TEMPLATE: &str = "{%- for message in messages -%}\n    {{- '<|' + message.role + '|>' + message.content + '<|end|>' -}}\n{%- endfor -%}\n{%- if add_generation_prompt -%}\n    {{- '<|assistant|>' -}}\n{%- endif -%}\n";

/// A piece never crosses a line with text; the line break belongs to the line, blank lines to the line after them.
const LINE: &str = r"\n*[^\n]*\n";

/// A line that occurs this often in the corpus is a token of its own.
const LINE_COUNT: usize = 3;
/// Merges of pairs kept for whatever is not a frequent line (measured on the embedded policy: more of them only make
/// rare lines look like frequent ones).
const MERGES: usize = 87;

/// Learns at most `vocab_size` tokens from `corpus`: 7 special tokens, 256 bytes, merges of pairs, and every line that
/// occurs three times or more, most frequent first. A small corpus can end up with fewer tokens. The same corpus gives
/// the same tokenizer.
pub fn train_bpe(corpus: &[String], vocab_size: usize) -> Result<Tokenizer, ModelError> {
    let failed = |reason: String| ModelError::Training { reason };
    let specials: Vec<&str> = [PAD, END].into_iter().chain(ROLES).chain([THINK, THINK_END]).collect();
    let floor = specials.len() + 256;
    if vocab_size < floor {
        return Err(failed(format!("vocab is {vocab_size}, expected at least {floor} (special tokens and all bytes)")));
    }
    let line = Split::new(SplitPattern::Regex(LINE.into()), SplitDelimiterBehavior::Isolated, false)
        .map_err(|error| failed(error.to_string()))?;
    let bytes = ByteLevel::new(false, false, false);
    let mut inner = tokenizers::Tokenizer::new(BPE::default());
    inner.with_pre_tokenizer(Some(Sequence::new(vec![
        PreTokenizerWrapper::Split(line),
        PreTokenizerWrapper::ByteLevel(bytes),
    ])));
    inner.with_decoder(Some(bytes));
    // The plan's marks are ordinary added tokens: decoders that skip special tokens must keep them.
    let added = |text: &str| AddedToken::from(text, !text.contains("think")).normalized(false);
    let trainer = BpeTrainer::builder()
        .vocab_size(vocab_size.min(floor + MERGES))
        .min_frequency(2)
        .show_progress(false)
        .special_tokens(specials.iter().map(|text| added(text)).collect())
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build();
    // Special tokens never lie inside a merge, so the trainer must not see them.
    let pieces: Vec<&str> = corpus.iter().flat_map(|text| split_at(text, &specials)).collect();
    let lines = frequent_lines(&pieces);
    inner
        .train(&mut TrainerWrapper::BpeTrainer(trainer), pieces.into_iter())
        .map_err(|error| failed(error.to_string()))?;
    let room = vocab_size.saturating_sub(inner.get_vocab_size(true));
    let lines: Vec<AddedToken> =
        lines.into_iter().take(room).map(|line| AddedToken::from(line, false).normalized(false)).collect();
    inner.add_tokens(&lines);
    let config = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": END,
        "pad_token": PAD,
        "clean_up_tokenization_spaces": false,
    });
    let config = match config {
        Value::Object(map) => map,
        _ => Map::new(),
    };
    let template = (CHAT_TEMPLATE.to_string(), "the embedded tokenizer".to_string());
    Tokenizer::new(inner, config, Some(template), None)
}

/// Lines with the blank lines before them, most frequent first, ties in byte order.
fn frequent_lines(pieces: &[&str]) -> Vec<String> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for piece in pieces {
        let mut rest = *piece;
        while let Some(text) = rest.find(|c| c != '\n') {
            let Some(end) = rest[text..].find('\n') else { break };
            let (line, after) = rest.split_at(text + end + 1);
            *counts.entry(line).or_default() += 1;
            rest = after;
        }
    }
    let mut lines: Vec<(&str, usize)> = counts.into_iter().filter(|&(_, count)| count >= LINE_COUNT).collect();
    lines.sort_by_key(|&(line, count)| (std::cmp::Reverse(count), line));
    lines.into_iter().map(|(line, _)| line.to_string()).collect()
}

/// The stretches of `text` between special tokens.
fn split_at<'a>(text: &'a str, specials: &[&str]) -> Vec<&'a str> {
    let mut pieces = vec![text];
    for special in specials {
        pieces = pieces.into_iter().flat_map(|piece| piece.split(special)).collect();
    }
    pieces.retain(|piece| !piece.is_empty());
    pieces
}
