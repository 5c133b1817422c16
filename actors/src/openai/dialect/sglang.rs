//! SGLang's own `/generate`: its OpenAI-compatible endpoint returns no token ids.
//!
//! An event holds the whole answer so far, or what is new in it (`--incremental-streaming-output`); which, follows from
//! `completion_tokens`, which always counts the whole. Every entry of `output_token_logprobs` is a log-prob and its token.

use rollout::id::PolicyVersion;
use serde::Deserialize;
use serde_json::{Value, json};

use super::super::answer::{Answer, End, Piece, Unusable};
use super::super::reload::version_of;
use super::{Ask, Said, form, signed};

const LOGPROBS: &str = "`return_logprob` of SGLang's /generate";
/// SGLang's own number for "all tokens".
const TOP_K_ALL: i64 = -1;

pub fn body(ask: &Ask<'_>) -> Value {
    let s = ask.sampling;
    json!({
        "input_ids": ask.prompt,
        "sampling_params": {
            "max_new_tokens": ask.max_new_tokens,
            "temperature": s.temperature,
            "top_p": s.top_p,
            "top_k": if s.top_k == 0 { TOP_K_ALL } else { s.top_k as i64 },
            "min_p": s.min_p,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "repetition_penalty": 1.0,
            "stop_token_ids": ask.eos,
            "no_stop_trim": true,
            "skip_special_tokens": false,
            // Heard only under `--enable-deterministic-inference`, where the same default for all would make all equal.
            "sampling_seed": signed(ask.seed),
        },
        "return_logprob": true,
        "logprob_start_len": -1,
        "top_logprobs_num": 0,
        "return_text_in_logprobs": false,
        "stream": true,
    })
}

#[derive(Deserialize)]
struct Chunk {
    meta_info: Meta,
}

#[derive(Deserialize)]
struct Meta {
    finish_reason: Option<Reason>,
    prompt_tokens: Option<usize>,
    completion_tokens: Option<usize>,
    output_token_logprobs: Option<Vec<Entry>>,
    weight_version: Option<String>,
    weight_versions: Option<Vec<Span>>,
}

/// A log-prob, its token, the token's text (not asked for).
type Entry = (Option<f64>, u64, Option<String>);

#[derive(Deserialize)]
struct Reason {
    #[serde(rename = "type")]
    kind: String,
    message: Option<String>,
}

/// Newer versions: which weights sampled which tokens of the whole answer.
#[derive(Deserialize)]
struct Span {
    version: String,
    start: usize,
    end: usize,
}

pub fn read(value: Value, so_far: &Answer, prompt: usize) -> Result<Said, Unusable> {
    let Chunk { meta_info: meta } = serde_json::from_value(value).map_err(form)?;
    if let Some(found) = meta.prompt_tokens
        && found != prompt
    {
        return Err(Unusable::Prompt { sent: prompt, found });
    }
    let end = meta.finish_reason.as_ref().map(|reason| match reason.kind.as_str() {
        "stop" => End::Stop,
        "length" => End::Length,
        other => End::Aborted(reason.message.clone().unwrap_or_else(|| other.to_string())),
    });
    let known = so_far.tokens.len();
    let whole = meta.completion_tokens.ok_or_else(|| form("no `completion_tokens` in an event"))?;
    let Some(entries) = &meta.output_token_logprobs else {
        return match whole == known {
            true => Ok(Said::Piece(Piece { end, ..Piece::default() })),
            false => Err(Unusable::NoLogprobs(LOGPROBS)),
        };
    };
    let new = if entries.len() >= whole {
        // All of it; a list that other events still grow may be ahead of its count.
        entries.get(known..whole).unwrap_or_default()
    } else if known + entries.len() == whole {
        &entries[..]
    } else {
        return Err(form(format!(
            "`completion_tokens` is {whole}, with {} log-probs in the event and {known} known before it",
            entries.len()
        )));
    };
    let label = meta.weight_version.as_deref().filter(|label| version_of(label).is_none());
    let mut piece = Piece { end, foreign: label.map(str::to_string), ..Piece::default() };
    for (n, (logprob, token, _)) in new.iter().enumerate() {
        let missing = || Unusable::Logprob { at: known + n, found: "null".into() };
        piece.logprobs.push(logprob.ok_or_else(missing)?);
        piece.tokens.push(*token);
        piece.stamps.push(meta.stamp(known + n));
    }
    Ok(Said::Piece(piece))
}

impl Meta {
    /// The version that token `at` was sampled under, as far as the server says so in labels of ours.
    fn stamp(&self, at: usize) -> Option<PolicyVersion> {
        let label = match &self.weight_versions {
            Some(spans) => spans.iter().find(|s| (s.start..s.end).contains(&at)).map(|s| s.version.as_str()),
            None => self.weight_version.as_deref(),
        };
        label.and_then(version_of)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(entries: &[(f64, u64)], whole: usize, more: Value) -> Value {
        let list: Vec<Value> = entries.iter().map(|(l, t)| json!([l, t, null])).collect();
        let mut meta = json!({ "prompt_tokens": 3, "completion_tokens": whole, "output_token_logprobs": list });
        for (key, value) in more.as_object().into_iter().flatten() {
            meta[key] = value.clone();
        }
        json!({ "text": "", "output_ids": [], "meta_info": meta })
    }

    fn answer(tokens: &[u32]) -> Answer {
        Answer { tokens: tokens.to_vec(), ..Answer::default() }
    }

    fn tokens(said: Result<Said, Unusable>) -> Vec<u64> {
        match said.unwrap() {
            Said::Piece(piece) => piece.tokens,
            other => panic!("{other:?}"),
        }
    }

    /// Planted: the whole answer is taken for what is new. Seen: left [5, 6, 7], right [7].
    #[test]
    fn whole_answers_and_new_parts_are_told_apart() {
        let known = answer(&[5, 6]);
        let all = [(-0.1, 5), (-0.2, 6), (-0.3, 7)];
        assert_eq!(tokens(read(event(&all, 3, json!({})), &known, 3)), [7]);
        assert_eq!(tokens(read(event(&all[2..], 3, json!({})), &known, 3)), [7]);
        // The list is ahead of its count: the rest comes again.
        assert_eq!(tokens(read(event(&all, 2, json!({})), &answer(&[5]), 3)), [6]);
        assert_eq!(tokens(read(event(&all, 2, json!({})), &known, 3)), [0u64; 0]);
        assert_eq!(tokens(read(event(&all[..1], 1, json!({})), &answer(&[]), 3)), [5]);
        assert!(read(event(&all[..1], 4, json!({})), &known, 3).is_err());
        assert_eq!(read(event(&all, 3, json!({})), &known, 4), Err(Unusable::Prompt { sent: 4, found: 3 }));
    }

    #[test]
    fn ends_and_stamps_are_read() {
        let all = [(-0.1, 5), (-0.2, 6), (-0.3, 7)];
        let spans =
            json!([{ "version": "default", "start": 0, "end": 1 }, { "version": "troupe-4", "start": 1, "end": 3 }]);
        let more = json!({ "finish_reason": { "type": "length", "length": 3 }, "weight_versions": spans, "weight_version": "troupe-4" });
        let Said::Piece(piece) = read(event(&all, 3, more), &answer(&[]), 3).unwrap() else { panic!() };
        assert_eq!(piece.stamps, [None, Some(PolicyVersion(4)), Some(PolicyVersion(4))]);
        assert_eq!((piece.end, piece.foreign), (Some(End::Length), None));
        let more = json!({ "weight_version": "default" });
        let Said::Piece(piece) = read(event(&all, 3, more), &answer(&[]), 3).unwrap() else { panic!() };
        assert_eq!(piece.foreign.as_deref(), Some("default"));
        let more = json!({ "finish_reason": { "type": "abort", "message": "gone" }, "weight_version": "troupe-2" });
        let Said::Piece(piece) = read(event(&all[..1], 1, more), &answer(&[]), 3).unwrap() else { panic!() };
        assert_eq!((piece.stamps, piece.end), (vec![Some(PolicyVersion(2))], Some(End::Aborted("gone".into()))));
        let none = json!({ "meta_info": { "completion_tokens": 1 } });
        assert_eq!(read(none, &answer(&[]), 3), Err(Unusable::NoLogprobs(LOGPROBS)));
    }
}
