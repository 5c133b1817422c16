//! What is asked of a generation server before a run begins on it: is it there, is it the model, are its log-probs the
//! ones that training needs.

use model::sampling::Sampling;
use serde::Deserialize;
use serde_json::Value;

use super::setup::Setup;
use crate::config::ServerKind;
use crate::errors::UserError;
use crate::http::{chain, limited};

const DOC: &str = "docs/generator.md has the server's command line";

#[derive(Deserialize)]
struct Models {
    data: Vec<Model>,
}

#[derive(Deserialize)]
struct Model {
    id: String,
    max_model_len: Option<usize>,
}

impl Setup {
    /// Asks the server for its models, and vLLM for its settings. `longest`: tokens of the longest prompt and answer together.
    ///
    /// # Errors
    /// What would make the run's answers impossible or wrong.
    pub async fn probe(&self, longest: usize, sampling: &Sampling) -> Result<(), UserError> {
        let (status, body) = self.get("v1/models").await?;
        let models: Models = match serde_json::from_slice(&body) {
            Ok(models) if status == 200 => models,
            _ => {
                let said = String::from_utf8_lossy(&body).into_owned();
                return Err(self.absent(format!("GET {}: status {status}, {said}", self.url("v1/models"))));
            }
        };
        let served = match self.server {
            ServerKind::Vllm => models.data.iter().find(|m| m.id == self.model),
            ServerKind::Sglang => models.data.first(),
        };
        let Some(served) = served else {
            let names: Vec<String> = models.data.iter().map(|m| format!("\"{}\"", m.id)).collect();
            return Err(UserError::new("the generation server does not serve this model")
                .at(format!("generator.model = \"{}\"", self.model))
                .found(if names.is_empty() { "no model".to_string() } else { names.join(", ") })
                .expected("the name of a served model")
                .hint("vLLM's `--served-model-name` gives it one"));
        };
        if let Some(limit) = served.max_model_len
            && limit < longest
        {
            return Err(UserError::new("the generation server's context is too short")
                .at("sampling.max_new_tokens")
                .found(format!("{longest} tokens of the longest prompt and an answer, {limit} of context"))
                .expected(format!("a context of at least {longest} tokens"))
                .hint("raise the server's `--max-model-len` (SGLang: `--context-length`), or lower sampling.max_new_tokens"));
        }
        if self.server == ServerKind::Vllm && self.reload.is_some() {
            self.probe_vllm(sampling).await?;
        }
        Ok(())
    }

    /// vLLM's own log-probs are of its raw logits, and its control endpoints are off, unless it is started otherwise.
    async fn probe_vllm(&self, sampling: &Sampling) -> Result<(), UserError> {
        let (status, body) = self.get("server_info?config_format=json").await?;
        if status == 404 {
            return Err(UserError::new(
                "the generation server has no control endpoints, so it cannot take new weights",
            )
            .at("generator.reload = \"disk\"")
            .found(format!("GET {}: status 404", self.url("server_info")))
            .expected("a vLLM that was started with VLLM_SERVER_DEV_MODE=1")
            .hint(DOC));
        }
        let info: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
        // Older versions answer with text, and say it nowhere else; what they do unless told otherwise is raw.
        let mode = info["vllm_config"]["model_config"]["logprobs_mode"].as_str().unwrap_or("not told");
        let plain =
            sampling.temperature == 1.0 && sampling.top_k == 0 && sampling.top_p >= 1.0 && sampling.min_p <= 0.0;
        match mode {
            "processed_logprobs" => Ok(()),
            "raw_logprobs" | "not told" if plain => Ok(()),
            other => Err(UserError::new(
                "the generation server's log-probs are not those of the distribution it samples from",
            )
            .at("sampling.temperature, top_k, top_p, min_p")
            .found(format!("logprobs_mode = {other}"))
            .expected("processed_logprobs (or raw_logprobs with temperature 1 and no truncation)")
            .hint("start vLLM with `--logprobs-mode processed_logprobs`")),
        }
    }

    async fn get(&self, path: &str) -> Result<(u16, Vec<u8>), UserError> {
        let asked = async {
            let response = self.http.get(self.url(path)).send().await.map_err(|e| chain(&e.without_url()))?;
            Ok((response.status().as_u16(), limited(response).await?))
        };
        let limit = self.timeout;
        let silent = || Err(format!("silent for generator.timeout_s = {}", limit.as_secs_f64()));
        let result: Result<_, String> = tokio::time::timeout(limit, asked).await.unwrap_or_else(|_| silent());
        result.map_err(|why| self.absent(format!("GET {}: {why}", self.url(path))))
    }

    fn absent(&self, found: String) -> UserError {
        UserError::new("the generation server does not answer")
            .at("generator.base_url")
            .found(self.blot(&found))
            .expected("a vLLM or SGLang server that has loaded its model")
            .hint(DOC)
    }
}
