//! Attention's kernels (`cuda/attention*.cu`): a warp a row and head for any shape, tiles on tensor cores where they fit.
#![allow(unsafe_code)]

use super::kernels::{defines, need, source};
use super::program::Arg;
use super::{Element, Kernel, Program, Result, Runtime, Span};
use crate::host::Dims;
use crate::packing::TILE;

/// Columns of the other side that the tiles' backward takes at a time (`STEP` of `cuda/attention_mma.cu`).
const STEP: usize = 32;
/// Threads of a block of warps a row, and of a tile.
const BLOCK: usize = 256;
const TILE_BLOCK: usize = 128;

/// Rows of attention, on tensor cores where elements and head size allow.
pub struct Attention {
    dims: Dims,
    size: usize,
    pub compiled: bool,
    kind: Kind,
}

enum Kind {
    /// A warp a row and head.
    Plain {
        forward: Kernel,
        dq: Kernel,
        dkv: Kernel,
        delta: Kernel,
    },
    Tiles {
        forward: Kernel,
        dq: Kernel,
        dkv: Kernel,
        delta: Kernel,
    },
}

/// What attention reads: rotated queries and keys, values inside raw `[rows, qkv]`, and the layout of `packing::Packed`.
#[derive(Clone, Copy)]
pub struct Scene {
    pub qk: Span,
    pub raw: Span,
    pub segments: Span,
    pub segment_of: Span,
    pub query_tiles: Span,
    pub key_tiles: Span,
    /// How many query tiles, and key tiles: the same.
    pub tiles: usize,
    pub rows: usize,
}

impl Attention {
    /// `plain` forces the kernels without tensor cores.
    pub fn load(runtime: &Runtime, dims: &Dims, qk_norm: bool, element: Element, plain: bool) -> Result<Self> {
        let defines = defines(dims, qk_norm, element);
        let text = source(&[include_str!("cuda/attention.cu")]);
        let program = Program::load(runtime, "attention", &text, &defines)?;
        let delta = program.kernel("attend_delta")?;
        let tiles = element == Element::Bf16 && dims.head_dim.is_multiple_of(8) && dims.head_dim <= 128;
        let tiles = tiles && runtime.capability().0 >= 8 && !plain;
        let mut compiled = program.compiled;
        let kind = if tiles {
            let text = source(&[include_str!("cuda/attention_mma.cu")]);
            let program = Program::load(runtime, "attention-mma", &text, &defines)?;
            compiled |= program.compiled;
            let (forward, dq) = (program.kernel("flash")?, program.kernel("flash_dq")?);
            let dkv = program.kernel("flash_dkv")?;
            forward.allow_shared(shared(dims, 3 * TILE))?;
            dq.allow_shared(shared(dims, 2 * TILE + 4 * STEP))?;
            dkv.allow_shared(shared(dims, 2 * TILE + 4 * STEP))?;
            Kind::Tiles { forward, dq, dkv, delta }
        } else {
            let (forward, dq) = (program.kernel("attend")?, program.kernel("attend_dq")?);
            Kind::Plain { forward, dq, dkv: program.kernel("attend_dkv")?, delta }
        };
        Ok(Self { dims: dims.clone(), size: element.bytes(), compiled, kind })
    }

    fn check(&self, s: &Scene) -> Result<()> {
        need("queries and keys", s.qk, s.rows * (self.dims.q() + self.dims.kv()) * self.size)?;
        need("values", s.raw, s.rows * self.dims.qkv() * self.size)?;
        need("segments of rows", s.segment_of, s.rows * 4)?;
        need("query tiles", s.query_tiles, s.tiles * 32)?;
        need("key tiles", s.key_tiles, s.tiles * 32)
    }

    fn scale(&self) -> f32 {
        1.0 / (self.dims.head_dim as f32).sqrt()
    }

    /// `mixed`: `[rows, q]`; `lse`: `[heads, rows]` fp32.
    pub fn forward(&self, rt: &Runtime, s: &Scene, mixed: Span, lse: Span) -> Result<()> {
        self.check(s)?;
        need("attention's output", mixed, s.rows * self.dims.q() * self.size)?;
        need("attention's sums", lse, s.rows * self.dims.heads * 4)?;
        let scale = self.scale();
        match &self.kind {
            Kind::Plain { forward, .. } => {
                let grid = [(s.rows * self.dims.heads).div_ceil(8), 1, 1];
                let args = [
                    s.qk.into(),
                    s.raw.into(),
                    s.segments.into(),
                    s.segment_of.into(),
                    scale.into(),
                    mixed.into(),
                    lse.into(),
                    s.rows.into(),
                ];
                go(rt, forward, grid, BLOCK, &args)
            }
            Kind::Tiles { forward, .. } => {
                let args = [
                    s.qk.into(),
                    s.raw.into(),
                    s.query_tiles.into(),
                    scale.into(),
                    mixed.into(),
                    lse.into(),
                    s.rows.into(),
                ];
                self.tiles(rt, forward, [self.dims.heads, s.tiles, 1], 3 * TILE, &args)
            }
        }
    }

    /// `d_qkv`: all of `[rows, qkv]`, of the rotated queries and keys. `delta`: `[heads, rows]` fp32, overwritten.
    #[allow(clippy::too_many_arguments)]
    pub fn backward(
        &self,
        rt: &Runtime,
        s: &Scene,
        mixed: Span,
        d_mixed: Span,
        lse: Span,
        delta: Span,
        d_qkv: Span,
    ) -> Result<()> {
        self.check(s)?;
        let dims = &self.dims;
        need("attention's output", mixed, s.rows * dims.q() * self.size)?;
        need("its gradient", d_mixed, s.rows * dims.q() * self.size)?;
        need("attention's sums", lse, s.rows * dims.heads * 4)?;
        need("attention's means", delta, s.rows * dims.heads * 4)?;
        need("gradients of queries, keys and values", d_qkv, s.rows * dims.qkv() * self.size)?;
        let scale: Arg = self.scale().into();
        let (first, second) = match &self.kind {
            Kind::Plain { .. } => (s.segments, s.segment_of),
            Kind::Tiles { .. } => (s.query_tiles, s.key_tiles),
        };
        let (Kind::Plain { delta: means, .. } | Kind::Tiles { delta: means, .. }) = &self.kind;
        let warps = |tasks: usize| [tasks.div_ceil(8), 1, 1];
        let args = [mixed.into(), d_mixed.into(), delta.into(), s.rows.into()];
        go(rt, means, warps(s.rows * dims.heads), BLOCK, &args)?;
        let head = [s.qk.into(), s.raw.into(), d_mixed.into()];
        let tail = [scale, lse.into(), delta.into(), d_qkv.into(), s.rows.into()];
        let args = |layout: &[Arg]| [&head[..], layout, &tail[..]].concat();
        match &self.kind {
            Kind::Plain { dq, dkv, .. } => {
                let args = args(&[first.into(), second.into()]);
                go(rt, dq, warps(s.rows * dims.heads), BLOCK, &args)?;
                go(rt, dkv, warps(s.rows * dims.kv_heads), BLOCK, &args)
            }
            Kind::Tiles { dq, dkv, .. } => {
                let lines = 2 * TILE + 4 * STEP;
                self.tiles(rt, dq, [dims.heads, s.tiles, 1], lines, &args(&[first.into()]))?;
                self.tiles(rt, dkv, [dims.kv_heads, s.tiles, 1], lines, &args(&[second.into()]))
            }
        }
    }

    fn tiles(&self, rt: &Runtime, kernel: &Kernel, grid: [usize; 3], lines: usize, args: &[Arg]) -> Result<()> {
        // SAFETY: as `go`; the shared memory is what the kernel lays out.
        unsafe { kernel.launch(rt, grid, TILE_BLOCK, shared(&self.dims, lines), args) }
    }
}

/// Bytes of `lines` rows in shared memory.
fn shared(dims: &Dims, lines: usize) -> usize {
    lines * (dims.head_dim.next_multiple_of(16) + 8) * 2
}

fn go(rt: &Runtime, kernel: &Kernel, grid: [usize; 3], block: usize, args: &[Arg]) -> Result<()> {
    // SAFETY: each caller in this file gives the kernel's parameters in their order and types and has checked that the spans are as
    // large as the kernel uses for this grid; whoever made the spans vouches for the memory.
    unsafe { kernel.launch(rt, grid, block, 0, args) }
}
