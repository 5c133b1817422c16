//! What training takes of a GPU's memory, before it begins: a sum over everything that the learner's executor will hold.
//!
//! By parameter, in bytes: fp32 masters 4, AdamW's moments 8, fp32 gradients 4, and bf16 copies: 2 where all are kept, next to
//! nothing where a layer's are made when it is used. With adapters all but the base's weights is theirs. The rest goes by the rows of a pass.

use crate::host::Dims;

/// Rows of a pass are filled up to a multiple of this.
pub const FILL: usize = 64;
/// Rows of a pass, at most; about what keeps a GPU busy: 8,192 tokens, and some that several sequences of that sum need besides.
pub const MAX_ROWS: usize = 8192 + 2 * FILL;
/// Bytes that the logits of a chunk and their gradients may take.
pub const CHUNK_BYTES: usize = 1 << 30;
/// Left free: for code, cuBLASLt's own, tables, and the ends of allocations.
const SPARE_BYTES: usize = 1_500_000_000;

/// Whether bf16 copies of all weights are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Copies {
    /// Where there is room for them and for full passes.
    #[default]
    Auto,
    Kept,
    /// Made of the masters a layer at a time: twice a pass instead of once a step.
    Fresh,
}

/// What is trained how.
#[derive(Clone, Debug)]
pub struct Wanted<'a> {
    pub dims: &'a Dims,
    pub layers: usize,
    pub tied: bool,
    /// Elements of all weights.
    pub parameters: usize,
    /// Elements of the adapters, where only they are trained.
    pub adapters: Option<usize>,
    /// Bytes of what activations and copies are made of.
    pub element: usize,
    /// Bytes of a weight as it is stored.
    pub stored: usize,
    pub recompute: bool,
    pub copies: Copies,
    /// The optimizer's moments exist already (of a checkpoint).
    pub moments_held: bool,
    /// Another network is kept beside it, in fp32.
    pub reference: bool,
    /// Weights and moments are kept as they were, to go back to.
    pub keeps_copy: bool,
    /// Versions of the whole policy that others hold, in fp32, while an update makes the next.
    pub published: usize,
    /// Tokens of the longest prompt with its answer, which a pass has to take; 0 where that is not known.
    pub longest: usize,
}

/// One thing that is held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    pub what: &'static str,
    pub bytes: usize,
    /// It is there already and does not count against what is free.
    pub held: bool,
}

/// A plan that fits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Budget {
    pub lines: Vec<Line>,
    /// Rows of a pass, at most.
    pub rows: usize,
    /// bf16 copies are made of the masters where they are used.
    pub fresh: bool,
}

/// No pass fits.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "training needs {} more of the GPU's memory for a pass of {rows} rows, the shortest there can be; {} are free: {}\n  hint: {hint}",
    gigabytes(*.needed), gigabytes(*.free), table(.lines)
)]
pub struct Short {
    pub needed: usize,
    pub free: usize,
    pub lines: Vec<Line>,
    rows: usize,
    hint: &'static str,
}

impl Wanted<'_> {
    /// Bytes that one more row of a pass takes, logits apart.
    pub fn row_bytes(&self) -> usize {
        let (d, e) = (self.dims, self.element);
        let tape = 4 * (2 + (d.heads + d.kv_heads) + d.heads + d.hidden) + e * (d.qkv() + d.q() + 2 * d.ff);
        let tapes = if self.recompute { 1 } else { self.layers };
        // Normed rows and their gradient, a layer's output, the stream's gradient twice, activations; attention's.
        let scratch = e * (4 * d.hidden + d.ff + d.q() + d.qkv() + d.q() + d.kv()) + 4 * (d.hidden + d.heads);
        // Hidden states and their gradient; by target, of which a row has about one: gathered, and their gradient.
        let head = 4 * e * d.hidden + 32;
        let numbers = 4 * 8;
        tapes * tape + (self.layers + 1) * 4 * d.hidden + scratch + head + numbers
    }

    /// Elements of a layer's matrices.
    fn layer(&self) -> usize {
        let d = self.dims;
        d.hidden * (d.qkv() + d.q() + 3 * d.ff)
    }

    fn lines(&self, rows: usize, fresh: bool) -> Vec<Line> {
        let (d, e) = (self.dims, self.element);
        let line = |what, bytes| Line { what, bytes, held: false };
        let trained = self.adapters.unwrap_or(self.parameters);
        let mut lines = vec![Line { what: "weights", bytes: self.stored * self.parameters, held: true }];
        if let Some(adapters) = self.adapters {
            lines.push(Line { what: "adapters", bytes: 4 * adapters, held: true });
        }
        lines.push(Line { what: "AdamW's two moments", bytes: 8 * trained, held: self.moments_held });
        lines.push(line("gradients", 4 * trained));
        if self.keeps_copy {
            lines.push(line("weights and moments to go back to", 12 * trained));
        }
        if self.published > 0 {
            lines.push(line("published versions of the policy", 4 * self.published * self.parameters));
        }
        if self.reference {
            lines.push(line("the reference network", 4 * self.parameters));
        }
        let vocabulary = d.vocab * d.hidden;
        if fresh {
            lines.push(line("bf16 weights of one layer or of the vocabulary", e * self.layer().max(vocabulary)));
        } else if e == 2 {
            let matrices = self.layers * self.layer() + vocabulary * if self.tied { 1 } else { 2 };
            lines.push(line("bf16 weights", e * matrices));
        }
        lines.push(line("activations", rows * self.row_bytes()));
        lines.push(line("logits of a chunk", CHUNK_BYTES.min(rows * d.vocab * (4 + e))));
        // 64 bytes for every 32,768 elements; sums of up to 2 ff columns in 32 parts.
        lines.push(line("tables and partial sums", trained / 512 + 4 * 32 * d.hidden.max(d.qkv()).max(2 * d.ff)));
        lines.push(line("left free", SPARE_BYTES));
        lines
    }

    fn needed(&self, rows: usize, fresh: bool) -> usize {
        self.lines(rows, fresh).iter().filter(|l| !l.held).map(|l| l.bytes).sum()
    }

    /// Rows that a pass has to have room for, a multiple of `FILL`.
    fn least(&self) -> usize {
        self.longest.max(1).next_multiple_of(FILL)
    }

    /// The most rows of a pass, a multiple of `FILL`; 0 where too few fit.
    fn rows(&self, free: usize, fresh: bool) -> usize {
        let fits = |blocks: &usize| self.needed(blocks * FILL, fresh) <= free;
        let (least, most) = (self.least() / FILL, MAX_ROWS.max(self.least()) / FILL);
        (least..=most).rev().find(fits).map_or(0, |blocks| blocks * FILL)
    }

    /// What to do with `free` bytes.
    pub fn plan(&self, free: usize) -> Result<Budget, Short> {
        // Adapters are added to the base in the copy: theirs is always fresh.
        let fresh = match self.copies {
            _ if self.adapters.is_some() => true,
            _ if self.element != 2 => false,
            Copies::Kept => false,
            Copies::Fresh => true,
            Copies::Auto => self.rows(free, true) > self.rows(free, false),
        };
        let rows = self.rows(free, fresh);
        if rows > 0 {
            return Ok(Budget { lines: self.lines(rows, fresh), rows, fresh });
        }
        let hint = match (self.adapters, self.recompute) {
            _ if self.keeps_copy => "set `learner.epochs = 1`: with more, weights and moments are kept to go back to",
            _ if self.reference => "set `learner.kl_coef = 0`: with it, the reference network is kept",
            _ if self.longest > MAX_ROWS / 2 => {
                "lower `sampling.max_new_tokens`, set `learner.gpu_recompute`, train adapters (`lora.rank`), or take a smaller model"
            }
            (None, _) => "train adapters (`lora.rank`), take a smaller model, or free what others hold of this GPU",
            (Some(_), false) => {
                "set `learner.gpu_recompute`, take a smaller model, or free what others hold of this GPU"
            }
            (Some(_), true) => "take a smaller model, or free what others hold of this GPU",
        };
        let rows = self.least();
        Err(Short { needed: self.needed(rows, fresh), free, lines: self.lines(rows, fresh), rows, hint })
    }
}

impl Budget {
    /// All of it, what is held already included.
    pub fn total(&self) -> usize {
        self.lines.iter().map(|l| l.bytes).sum()
    }
}

impl std::fmt::Display for Budget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} for passes of up to {} rows: {}", gigabytes(self.total()), self.rows, table(&self.lines))
    }
}

fn gigabytes(bytes: usize) -> String {
    format!("{:.2} GB", bytes as f64 / 1e9)
}

fn table(lines: &[Line]) -> String {
    lines.iter().map(|l| format!("{} {}", l.what, gigabytes(l.bytes))).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// An H200: what the driver counts, less a context's own.
    const H200: usize = 150_700_000_000 - 600_000_000;

    fn dims(hidden: usize, ff: usize, heads: usize, kv_heads: usize) -> Dims {
        Dims {
            hidden,
            heads,
            kv_heads,
            head_dim: 128,
            ff,
            vocab: 151_936,
            eps: 1e-6,
            frequencies: Vec::new(),
            rope_scale: 1.0,
        }
    }

    fn eight(dims: &Dims) -> Wanted<'_> {
        let parameters = 8_190_735_360;
        let (recompute, moments_held, reference, keeps_copy) = (true, false, false, false);
        Wanted {
            dims,
            layers: 36,
            tied: false,
            parameters,
            adapters: None,
            element: 2,
            stored: 4,
            recompute,
            copies: Copies::Auto,
            moments_held,
            reference,
            keeps_copy,
            published: 0,
            longest: 0,
        }
    }

    /// Planted and seen to fail: 64 rows called enough.
    #[test]
    fn the_longest_text_fits_or_nothing_is_begun() {
        let dims = dims(4096, 12_288, 32, 8);
        let free = H200 - 4 * 8_190_735_360;
        let long = Wanted { longest: 18_432, ..eight(&dims) };
        let refused = long.plan(free).unwrap_err().to_string();
        assert!(refused.contains("18432 rows") && refused.contains("max_new_tokens"), "{refused}");
        // Adapters leave room for it: the pass is as long as the text.
        let adapters = Wanted { adapters: Some(43_646_976), ..long };
        assert_eq!(adapters.plan(free).unwrap().rows, 18_432);
        // What others hold of the policy counts.
        let told = Wanted { published: 1, ..eight(&dims) }.plan(free).unwrap_err().to_string();
        assert!(told.contains("published versions of the policy 32.76 GB"), "{told}");
    }

    /// The table of docs/learner-gpu.md. Planted and seen to fail: gradients of 2 bytes.
    #[test]
    fn eight_billion_weights_fit_one_card_with_fresh_copies_only() {
        let dims = dims(4096, 12_288, 32, 8);
        let wanted = eight(&dims);
        let free = H200 - 4 * wanted.parameters;
        let plan = wanted.plan(free).unwrap();
        assert!(plan.fresh && plan.rows == MAX_ROWS, "{plan}");
        let of = |what| plan.lines.iter().find(|l| l.what == what).unwrap().bytes;
        assert_eq!(of("weights") + of("AdamW's two moments") + of("gradients"), 16 * wanted.parameters);
        assert_eq!(of("bf16 weights of one layer or of the vocabulary"), 2 * 151_936 * 4096);
        assert!((6.5e9..8.0e9).contains(&(of("activations") as f64)), "{plan}");
        assert!(plan.total() < H200, "{plan}");
        // Copies of all weights leave room for next to no rows.
        let kept = Wanted { copies: Copies::Kept, ..wanted.clone() };
        assert!(kept.plan(free).unwrap().rows < 1024);
        let none = kept.plan(free - 2_000_000_000).unwrap_err();
        assert!(none.needed > none.free && none.to_string().contains("bf16 weights 16.38 GB"), "{none}");
        // Without recomputation passes are shorter.
        let long = Wanted { recompute: false, ..wanted.clone() }.plan(free).unwrap();
        assert!(long.fresh && (1024..6000).contains(&long.rows), "{long}");
        // Of a checkpoint, the moments are there.
        let resumed = Wanted { moments_held: true, ..wanted.clone() };
        assert_eq!(resumed.plan(free - 8 * wanted.parameters).unwrap().rows, plan.rows);
        // What a run's settings ask for besides is named.
        let twice = Wanted { keeps_copy: true, ..wanted.clone() }.plan(free).unwrap_err().to_string();
        assert!(twice.contains("learner.epochs = 1") && twice.contains("to go back to 98.29 GB"), "{twice}");
        let beside = Wanted { reference: true, ..wanted.clone() }.plan(free).unwrap_err().to_string();
        assert!(beside.contains("kl_coef") && beside.contains("the reference network 32.76 GB"), "{beside}");
        let half = wanted.plan(free / 2).unwrap_err();
        assert!(half.to_string().contains("lora.rank") && half.free == free / 2, "{half}");
    }

    #[test]
    fn adapters_need_the_base_and_little_more() {
        let dims = dims(4096, 12_288, 32, 8);
        let wanted = Wanted { adapters: Some(43_646_976), stored: 2, ..eight(&dims) };
        let plan = wanted.plan(H200 - 2 * wanted.parameters).unwrap();
        assert!(plan.fresh && plan.rows == MAX_ROWS, "{plan}");
        assert!(plan.total() < 30_000_000_000, "{plan}");
    }

    #[test]
    fn a_small_network_keeps_its_copies() {
        let dims = dims(1024, 3072, 16, 8);
        let small = Wanted { layers: 28, tied: true, parameters: 596_049_920, recompute: false, ..eight(&dims) };
        let plan = small.plan(H200 - 4 * small.parameters).unwrap();
        assert!(!plan.fresh && plan.rows == MAX_ROWS, "{plan}");
        let exact = Wanted { element: 4, ..small };
        assert!(!exact.plan(H200).unwrap().fresh);
    }

    #[test]
    fn more_memory_is_never_fewer_rows() {
        let dims = dims(4096, 12_288, 32, 8);
        let wanted = eight(&dims);
        let mut last = 0;
        for free in (100..120).map(|g| g * 1_000_000_000) {
            let rows = wanted.plan(free).map_or(0, |p| p.rows);
            assert!(rows >= last && rows.is_multiple_of(FILL), "{free}: {rows} after {last}");
            last = rows;
        }
        assert_eq!(last, MAX_ROWS);
    }
}
