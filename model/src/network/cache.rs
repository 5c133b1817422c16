//! Keys and values of texts that are being generated, one row per text, each row at its own length.
//!
//! Rows join at the end (`add_rows`, `clone_row`) and leave by compaction (`retain_rows`). The store grows in both
//! directions when needed and is never copied by a decode step: new keys are written into it in place.

use std::ops::Range;

use burn::tensor::{Bool, Int, Tensor, TensorData, backend::Backend};

use crate::config::ModelConfig;

/// Columns the store grows by.
const COLUMNS_STEP: usize = 64;

/// One layer's store: `[row capacity, kv_heads, column capacity, head_dim]` each.
#[derive(Clone, Debug)]
struct LayerCache<B: Backend> {
    keys: Option<Tensor<B, 4>>,
    values: Option<Tensor<B, 4>>,
}

/// The cache of one network. Columns past a row's length hold leftovers and are never seen.
#[derive(Clone, Debug)]
pub struct KvCache<B: Backend> {
    layers: Vec<LayerCache<B>>,
    /// Tokens stored per row.
    lengths: Vec<usize>,
    kv_heads: usize,
    head_dim: usize,
    row_capacity: usize,
    column_capacity: usize,
    device: B::Device,
}

/// One forward pass over some rows, worked out once and used by every layer.
#[derive(Clone, Debug)]
pub(super) struct Step<B: Backend> {
    rows: Range<usize>,
    t: usize,
    counts: Vec<usize>,
    /// Columns the queries look at: the longest row, new tokens included.
    past: usize,
    /// Writes as rectangles: runs of neighbouring rows that write at the same column.
    runs: Vec<(Range<usize>, usize)>,
    /// `[rows, t]`
    pub positions: Tensor<B, 2, Int>,
    /// `[rows, 1, t, past]`, true = may not attend.
    pub mask: Tensor<B, 4, Bool>,
}

impl<B: Backend> Step<B> {
    pub fn batch(&self) -> usize {
        self.rows.len()
    }
}

impl<B: Backend> KvCache<B> {
    /// An empty cache. It can hold any number of rows and columns; the engine sets the limits.
    pub fn new(config: &ModelConfig, device: &B::Device) -> Self {
        Self {
            layers: vec![LayerCache { keys: None, values: None }; config.num_layers],
            lengths: Vec::new(),
            kv_heads: config.num_kv_heads,
            head_dim: config.head_dim,
            row_capacity: 0,
            column_capacity: 0,
            device: device.clone(),
        }
    }

    pub fn rows(&self) -> usize {
        self.lengths.len()
    }

    /// Tokens stored per row.
    pub fn lengths(&self) -> &[usize] {
        &self.lengths
    }

    /// Appends `n` empty rows and returns their numbers.
    pub fn add_rows(&mut self, n: usize) -> Range<usize> {
        let start = self.rows();
        self.lengths.resize(start + n, 0);
        start..start + n
    }

    /// Appends `n` copies of `row` (texts with a common prompt need its keys computed once) and returns their numbers.
    pub fn clone_row(&mut self, row: usize, n: usize) -> Range<usize> {
        let rows = self.add_rows(n);
        let length = self.lengths[row];
        self.lengths[rows.clone()].fill(length);
        self.reserve(self.rows(), length);
        if length > 0 && n > 0 {
            let (kv, dim) = (self.kv_heads, self.head_dim);
            let copy = |store: &mut Option<Tensor<B, 4>>| {
                if let Some(tensor) = store.take() {
                    // `repeat_dim` makes a copy of its own, so the store is uniquely owned when it is written.
                    let source = tensor.clone().slice([row..row + 1, 0..kv, 0..length, 0..dim]).repeat_dim(0, n);
                    *store = Some(tensor.slice_assign([rows.clone(), 0..kv, 0..length, 0..dim], source));
                }
            };
            for layer in &mut self.layers {
                copy(&mut layer.keys);
                copy(&mut layer.values);
            }
        }
        rows
    }

    /// Keeps the rows `keep` (ascending, no repeats), which are renumbered 0.. in this order, and forgets the others.
    pub fn retain_rows(&mut self, keep: &[usize]) {
        if keep.iter().copied().eq(0..self.rows()) {
            return;
        }
        if keep.iter().copied().eq(0..keep.len()) {
            self.lengths.truncate(keep.len());
            return;
        }
        // Rows that move, in ascending order: a row never overwrites one that has yet to move.
        let moves: Vec<(usize, usize)> = keep.iter().copied().enumerate().filter(|(to, from)| to != from).collect();
        let (kv, dim) = (self.kv_heads, self.head_dim);
        let lengths = &self.lengths;
        let shift = |store: &mut Option<Tensor<B, 4>>| {
            let Some(mut tensor) = store.take() else { return };
            for &(to, from) in &moves {
                let length = lengths[from];
                if length > 0 {
                    // `repeat_dim` makes a copy of its own, so the store is uniquely owned when it is written.
                    let source = tensor.clone().slice([from..from + 1, 0..kv, 0..length, 0..dim]).repeat_dim(0, 1);
                    tensor = tensor.slice_assign([to..to + 1, 0..kv, 0..length, 0..dim], source);
                }
            }
            *store = Some(tensor);
        };
        for layer in &mut self.layers {
            shift(&mut layer.keys);
            shift(&mut layer.values);
        }
        self.lengths = keep.iter().map(|&row| self.lengths[row]).collect();
    }

    /// Forgets every row; the memory stays.
    pub fn clear(&mut self) {
        self.lengths.clear();
    }

    /// Prepares a pass of `t` columns over `rows`.
    pub(super) fn begin(&mut self, rows: Range<usize>, t: usize, counts: &[usize], device: &B::Device) -> Step<B> {
        assert!(rows.end <= self.rows(), "rows {rows:?} of a cache with {} rows", self.rows());
        assert_eq!(rows.len(), counts.len(), "one count per row");
        assert!(counts.iter().all(|&count| count <= t), "counts {counts:?} exceed {t} columns");
        let starts = &self.lengths[rows.clone()];
        let past = starts.iter().max().map_or(0, |longest| longest + t);
        let mut positions = Vec::with_capacity(rows.len() * t);
        let mut mask = Vec::with_capacity(rows.len() * t * past);
        let mut runs: Vec<(Range<usize>, usize)> = Vec::new();
        for (row, &start) in rows.clone().zip(starts) {
            for column in start..start + t {
                positions.push(column as i64);
                mask.extend((0..past).map(|key| key > column));
            }
            match runs.last_mut() {
                Some((run, at)) if *at == start => run.end = row + 1,
                _ => runs.push((row..row + 1, start)),
            }
        }
        let shape = [rows.len(), t];
        let positions = Tensor::from_data(TensorData::new(positions, shape), device);
        let mask = Tensor::from_data(TensorData::new(mask, [shape[0], 1, t, past]), device);
        self.reserve(self.rows(), past);
        Step { rows, t, counts: counts.to_vec(), past, runs, positions, mask }
    }

    /// Writes the new keys and values (`[rows, kv_heads, t, head_dim]`) of one layer and returns all that the rows may see
    /// (`[rows, kv_heads, past, head_dim]`).
    pub(super) fn append(
        &mut self,
        layer: usize,
        step: &Step<B>,
        k: Tensor<B, 4>,
        v: Tensor<B, 4>,
    ) -> (Tensor<B, 4>, Tensor<B, 4>) {
        let (kv, dim) = (self.kv_heads, self.head_dim);
        let write = |store: &mut Option<Tensor<B, 4>>, new: Tensor<B, 4>| {
            let mut tensor = store.take().unwrap_or_else(|| new.clone());
            for (run, at) in &step.runs {
                let local = run.start - step.rows.start..run.end - step.rows.start;
                let part = new.clone().slice([local, 0..kv, 0..step.t, 0..dim]);
                tensor = tensor.slice_assign([run.clone(), 0..kv, *at..at + step.t, 0..dim], part);
            }
            let seen = tensor.clone().slice([step.rows.clone(), 0..kv, 0..step.past, 0..dim]);
            *store = Some(tensor);
            seen
        };
        let layer = &mut self.layers[layer];
        (write(&mut layer.keys, k), write(&mut layer.values, v))
    }

    /// The pass is over: the rows grow by their real tokens.
    pub(super) fn commit(&mut self, step: &Step<B>) {
        for (row, count) in step.rows.clone().zip(&step.counts) {
            self.lengths[row] += count;
        }
    }

    /// Makes room for `rows` rows of `columns` columns.
    fn reserve(&mut self, rows: usize, columns: usize) {
        if rows <= self.row_capacity && columns <= self.column_capacity {
            return;
        }
        let (old_rows, old_columns) = (self.row_capacity, self.column_capacity);
        if rows > old_rows {
            self.row_capacity = rows.max(old_rows * 2);
        }
        if columns > old_columns {
            self.column_capacity =
                columns.div_ceil(COLUMNS_STEP).max(old_columns / COLUMNS_STEP * 3 / 2) * COLUMNS_STEP;
        }
        let (kv, dim) = (self.kv_heads, self.head_dim);
        let shape = [self.row_capacity, kv, self.column_capacity, dim];
        let device = self.device.clone();
        let grow = |store: &mut Option<Tensor<B, 4>>| {
            let fresh = Tensor::<B, 4>::zeros(shape, &device);
            *store = Some(match store.take() {
                Some(old) => fresh.slice_assign([0..old_rows, 0..kv, 0..old_columns, 0..dim], old),
                None => fresh,
            });
        };
        for layer in &mut self.layers {
            grow(&mut layer.keys);
            grow(&mut layer.values);
        }
    }
}
