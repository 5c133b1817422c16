//! vLLM's `/v1/completions`, and whoever serves it with token ids and log-probs.

use serde::Deserialize;
use serde_json::{Value, json};

use super::super::answer::{Answer, End, Piece, Unusable};
use super::{Ask, Said, form, signed};

const TOKEN_IDS: &str = "vLLM 0.10.2 or newer: `return_token_ids`";
const LOGPROBS: &str = "`logprobs` of /v1/completions";
/// How `return_tokens_as_token_ids` writes a token: for servers that know only that.
const PLACEHOLDER: &str = "token_id:";

pub fn body(ask: &Ask<'_>) -> Value {
    let s = ask.sampling;
    json!({
        "model": ask.model,
        "prompt": ask.prompt,
        "max_tokens": ask.max_new_tokens,
        "n": 1,
        "stream": true,
        "temperature": s.temperature,
        "top_p": s.top_p,
        "top_k": if s.top_k == 0 { -1 } else { s.top_k as i64 },
        "min_p": s.min_p,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "repetition_penalty": 1.0,
        "stop_token_ids": ask.eos,
        "seed": signed(ask.seed),
        // The sampled token's own, and no others.
        "logprobs": 0,
        "return_token_ids": true,
        "return_tokens_as_token_ids": true,
        "skip_special_tokens": false,
    })
}

#[derive(Deserialize)]
struct Chunk {
    #[serde(default)]
    choices: Vec<Choice>,
}

#[derive(Deserialize)]
struct Choice {
    token_ids: Option<Vec<u64>>,
    prompt_token_ids: Option<Vec<u64>>,
    logprobs: Option<Logprobs>,
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct Logprobs {
    #[serde(default)]
    tokens: Vec<String>,
    #[serde(default)]
    token_logprobs: Vec<Option<f64>>,
}

pub fn read(value: Value, so_far: &Answer, prompt: usize) -> Result<Said, Unusable> {
    let chunk: Chunk = serde_json::from_value(value).map_err(form)?;
    let choice = match &chunk.choices[..] {
        [] => return Ok(Said::Nothing),
        [choice] => choice,
        more => return Err(form(format!("{} choices in one event, 1 was asked for", more.len()))),
    };
    if let Some(read) = &choice.prompt_token_ids
        && read.len() != prompt
    {
        return Err(Unusable::Prompt { sent: prompt, found: read.len() });
    }
    let end = match choice.finish_reason.as_deref() {
        None => None,
        Some("stop") => Some(End::Stop),
        Some("length") => Some(End::Length),
        Some(other) => Some(End::Aborted(other.to_string())),
    };
    let from_logprobs = choice.logprobs.as_ref().and_then(|l| ids(&l.tokens));
    let tokens = match (&choice.token_ids, from_logprobs) {
        (Some(ids), Some(same)) if *ids != same => {
            return Err(form("`token_ids` and `logprobs.tokens` name different tokens"));
        }
        (Some(ids), _) => ids.clone(),
        (None, Some(ids)) => ids,
        (None, None) => return Err(Unusable::NoTokenIds(TOKEN_IDS)),
    };
    let Some(logprobs) = &choice.logprobs else {
        return match tokens.is_empty() {
            true => Ok(Said::Piece(Piece { end, ..Piece::default() })),
            false => Err(Unusable::NoLogprobs(LOGPROBS)),
        };
    };
    let mut values = Vec::with_capacity(tokens.len());
    for (n, value) in logprobs.token_logprobs.iter().enumerate() {
        // What is not finite arrives as `null`.
        let missing = || Unusable::Logprob { at: so_far.tokens.len() + n, found: "null".into() };
        values.push(value.ok_or_else(missing)?);
    }
    Ok(Said::Piece(Piece { tokens, logprobs: values, end, ..Piece::default() }))
}

/// The ids in `token_id:7`, if every token is written so.
fn ids(tokens: &[String]) -> Option<Vec<u64>> {
    tokens.iter().map(|t| t.strip_prefix(PLACEHOLDER)?.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(value: Value) -> Result<Said, Unusable> {
        read(value, &Answer::default(), 3)
    }

    fn choice(fields: Value) -> Value {
        json!({ "choices": [fields] })
    }

    #[test]
    fn token_ids_come_from_either_field_and_must_agree() {
        let logprobs = json!({ "tokens": ["token_id:5", "token_id:6"], "token_logprobs": [-0.5, -1.5] });
        let expected = Said::Piece(Piece {
            tokens: vec![5, 6],
            logprobs: vec![-0.5, -1.5],
            end: Some(End::Length),
            ..Piece::default()
        });
        let both = json!({ "token_ids": [5, 6], "logprobs": logprobs, "finish_reason": "length" });
        assert_eq!(piece(choice(both)).unwrap(), expected);
        let old = json!({ "logprobs": logprobs, "finish_reason": "length" });
        assert_eq!(piece(choice(old)).unwrap(), expected);
        let differ = json!({ "token_ids": [5, 7], "logprobs": logprobs });
        assert!(piece(choice(differ)).unwrap_err().to_string().contains("different tokens"));
    }

    #[test]
    fn what_a_server_lacks_is_named() {
        let text = json!({ "text": "x", "logprobs": { "tokens": ["x"], "token_logprobs": [-0.5] } });
        assert_eq!(piece(choice(text)), Err(Unusable::NoTokenIds(TOKEN_IDS)));
        assert_eq!(piece(choice(json!({ "token_ids": [5] }))), Err(Unusable::NoLogprobs(LOGPROBS)));
        let null = json!({ "token_ids": [5], "logprobs": { "tokens": ["token_id:5"], "token_logprobs": [null] } });
        assert_eq!(piece(choice(null)), Err(Unusable::Logprob { at: 0, found: "null".into() }));
        let prompt = json!({ "token_ids": [], "prompt_token_ids": [1, 2, 3, 4] });
        assert_eq!(piece(choice(prompt)), Err(Unusable::Prompt { sent: 3, found: 4 }));
        assert_eq!(piece(json!({ "choices": [], "usage": {} })), Ok(Said::Nothing));
    }
}
