//! What an adapter is: rank, scale and the matrices it belongs to, by the names that PEFT and Hugging Face use.

use serde::{Deserialize, Serialize};

use crate::config::ModelConfig;

/// In the place of a name: every target.
pub const ALL_LINEAR: &str = "all-linear";

/// A matrix of a decoder layer that can have an adapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    QProj,
    KProj,
    VProj,
    OProj,
    GateProj,
    UpProj,
    DownProj,
}

impl Target {
    pub const ALL: [Self; 7] =
        [Self::QProj, Self::KProj, Self::VProj, Self::OProj, Self::GateProj, Self::UpProj, Self::DownProj];

    /// Its name in a Hugging Face layer.
    pub const fn name(self) -> &'static str {
        match self {
            Self::QProj => "q_proj",
            Self::KProj => "k_proj",
            Self::VProj => "v_proj",
            Self::OProj => "o_proj",
            Self::GateProj => "gate_proj",
            Self::UpProj => "up_proj",
            Self::DownProj => "down_proj",
        }
    }

    /// The part of the layer that holds it.
    pub const fn block(self) -> &'static str {
        match self {
            Self::QProj | Self::KProj | Self::VProj | Self::OProj => "self_attn",
            Self::GateProj | Self::UpProj | Self::DownProj => "mlp",
        }
    }

    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|target| target.name() == name)
    }
}

/// The words that `parse` takes.
pub const WORDS: [&str; 8] = {
    let mut words = [ALL_LINEAR; 8];
    let mut n = 0;
    while n < Target::ALL.len() {
        words[n + 1] = Target::ALL[n].name();
        n += 1;
    }
    words
};

/// Names, or `all-linear` alone, as targets in the order of `Target::ALL`.
pub fn parse<S: AsRef<str>>(words: &[S]) -> Result<Vec<Target>, LoraError> {
    let found = || words.iter().map(|w| format!("\"{}\"", w.as_ref())).collect::<Vec<_>>().join(", ");
    if let [only] = words
        && only.as_ref() == ALL_LINEAR
    {
        return Ok(Target::ALL.to_vec());
    }
    let mut targets = Vec::new();
    for word in words {
        match Target::from_name(word.as_ref()) {
            Some(target) if !targets.contains(&target) => targets.push(target),
            _ => return Err(LoraError::Targets { found: found() }),
        }
    }
    if targets.is_empty() {
        return Err(LoraError::Targets { found: "none".into() });
    }
    targets.sort_unstable();
    Ok(targets)
}

/// `W = W0 + scale B A`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoraConfig {
    /// Rows of A, columns of B; at least 1.
    pub rank: usize,
    /// Above 0.
    pub alpha: f64,
    /// Each once, the same in every layer.
    pub targets: Vec<Target>,
    /// `alpha / sqrt(rank)` instead of `alpha / rank` (rsLoRA).
    pub rslora: bool,
}

impl LoraConfig {
    /// The factor of `B A`.
    pub fn scale(&self) -> f64 {
        let rank = self.rank as f64;
        self.alpha / if self.rslora { rank.sqrt() } else { rank }
    }

    /// Whether such adapters can be made for matrices of these sizes.
    pub fn check(&self, sizes: &Sizes) -> Result<(), LoraError> {
        if !(self.alpha > 0.0 && self.alpha.is_finite()) {
            return Err(LoraError::Alpha { found: self.alpha.to_string() });
        }
        parse(&self.targets.iter().map(|t| t.name()).collect::<Vec<_>>())?;
        for target in &self.targets {
            let [input, output] = sizes.of(*target);
            if self.rank == 0 || self.rank > input.min(output) {
                return Err(LoraError::Rank { rank: self.rank, target: target.name(), input, output });
            }
        }
        Ok(())
    }

    /// Elements of all adapters of a network with `layers` layers.
    pub fn num_parameters(&self, sizes: &Sizes, layers: usize) -> usize {
        let of = |target: &Target| self.rank * sizes.of(*target).iter().sum::<usize>();
        layers * self.targets.iter().map(of).sum::<usize>()
    }
}

/// Adapters that cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LoraError {
    #[error(
        "lora.rank = {rank} does not fit {target}, which goes from {input} to {output}; expected 1 to {}\n  hint: a larger rank has more parameters than the matrix itself; lower lora.rank, or leave {target} out of lora.targets",
        .input.min(.output)
    )]
    Rank { rank: usize, target: &'static str, input: usize, output: usize },
    #[error(
        "lora.alpha = {found}, expected a number above 0\n  hint: the adapters are scaled by alpha / rank; twice the rank is a common choice"
    )]
    Alpha { found: String },
    #[error(
        "lora.targets holds {found}, expected \"{ALL_LINEAR}\" alone, or some of {}, each once",
        WORDS[1..].iter().map(|w| format!("\"{w}\"")).collect::<Vec<_>>().join(", ")
    )]
    Targets { found: String },
}

/// What decides the shapes of the targets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    pub hidden: usize,
    /// `heads * head_dim`.
    pub q: usize,
    /// `kv_heads * head_dim`.
    pub kv: usize,
    pub ff: usize,
}

impl Sizes {
    pub fn new(config: &ModelConfig) -> Self {
        Self {
            hidden: config.hidden_size,
            q: config.num_heads * config.head_dim,
            kv: config.num_kv_heads * config.head_dim,
            ff: config.intermediate_size,
        }
    }

    /// `[in, out]` of a target.
    pub fn of(&self, target: Target) -> [usize; 2] {
        match target {
            Target::QProj => [self.hidden, self.q],
            Target::KProj | Target::VProj => [self.hidden, self.kv],
            Target::OProj => [self.q, self.hidden],
            Target::GateProj | Target::UpProj => [self.hidden, self.ff],
            Target::DownProj => [self.ff, self.hidden],
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const SIZES: Sizes = Sizes { hidden: 16, q: 32, kv: 8, ff: 24 };

    fn config(rank: usize, alpha: f64, words: &[&str]) -> LoraConfig {
        LoraConfig { rank, alpha, targets: parse(words).unwrap(), rslora: false }
    }

    #[test]
    fn words_become_targets() {
        assert_eq!(parse(&["all-linear"]).unwrap(), Target::ALL);
        assert_eq!(parse(&["v_proj", "q_proj"]).unwrap(), [Target::QProj, Target::VProj]);
        for bad in [&["lm_head"][..], &[], &["q_proj", "q_proj"], &["all-linear", "q_proj"]] {
            let text = parse(bad).unwrap_err().to_string();
            assert!(text.contains("lora.targets holds") && text.contains("\"down_proj\""), "{text}");
        }
        assert!(parse(&["lm_head"]).unwrap_err().to_string().contains("\"lm_head\""));
    }

    #[test]
    fn the_scale_is_pefts() {
        let mut c = config(4, 8.0, &["q_proj"]);
        assert_eq!(c.scale(), 2.0);
        c.rslora = true;
        assert_eq!(c.scale(), 4.0);
    }

    #[test]
    fn what_cannot_be_is_refused_by_its_key() {
        assert!(config(8, 8.0, &["all-linear"]).check(&SIZES).is_ok());
        let text = config(9, 8.0, &["all-linear"]).check(&SIZES).unwrap_err().to_string();
        for part in ["lora.rank = 9", "k_proj", "from 16 to 8", "expected 1 to 8", "hint"] {
            assert!(text.contains(part), "{text}");
        }
        assert!(config(16, 8.0, &["q_proj"]).check(&SIZES).is_ok());
        assert!(config(17, 8.0, &["q_proj"]).check(&SIZES).is_err());
        assert!(config(0, 8.0, &["q_proj"]).check(&SIZES).is_err());
        for alpha in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            let text = config(1, alpha, &["q_proj"]).check(&SIZES).unwrap_err().to_string();
            assert!(text.contains("lora.alpha"), "{text}");
        }
    }

    #[test]
    fn parameters_are_counted() {
        assert_eq!(config(2, 1.0, &["q_proj", "down_proj"]).num_parameters(&SIZES, 3), 3 * 2 * (16 + 32 + 24 + 16));
    }
}
