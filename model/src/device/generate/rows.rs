//! What the kernels of generation are told of each row and of each tile of a prompt, in the words of `common.cu`.

use crate::sampling::Sampling;

/// One row of a step or of a prompt: `Row` in `common.cu`.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    pub token: u32,
    pub position: u32,
    /// Line of the block table.
    pub table: usize,
    pub sampling: Sampling,
    /// In `[0, 1)`, 53 bits.
    pub uniform: f64,
}

/// 32-bit words of a row.
pub const ROW_WORDS: usize = 10;
/// A row that stands for nothing.
pub const NO_ROW: [u32; ROW_WORDS] = [0, u32::MAX, 0, 0, 0, 0, 0, 0, 0, 0];

impl Row {
    pub fn words(&self) -> [u32; ROW_WORDS] {
        let bits = (self.uniform * (1u64 << 53) as f64) as u64;
        [
            self.token,
            self.position,
            self.table as u32,
            self.sampling.top_k.min(i32::MAX as usize) as u32,
            self.sampling.temperature.to_bits(),
            self.sampling.top_p.to_bits(),
            self.sampling.min_p.to_bits(),
            0,
            bits as u32,
            (bits >> 32) as u32,
        ]
    }
}

/// Neighbouring rows of one prompt: `Tile` in `common.cu`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tile {
    /// First row of the chunk, and how many.
    pub row: usize,
    pub count: usize,
    /// Position of the first.
    pub position: usize,
    pub table: usize,
}

impl Tile {
    pub fn words(&self) -> [u32; 4] {
        [self.row, self.count, self.position, self.table].map(|n| n as u32)
    }
}

/// A prompt to be run: its tokens and its line of the block table.
#[derive(Clone, Copy, Debug)]
pub struct Fill<'a> {
    pub tokens: &'a [u32],
    pub table: usize,
}

/// Rows of prompts that are run together.
#[derive(Clone, Debug, Default)]
pub struct Chunk {
    pub rows: Vec<Row>,
    pub tiles: Vec<Tile>,
}

/// Prompts one after the other, cut into chunks of `size` rows and tiles of at most `tile` rows. A prompt may go on in the
/// next chunk: what it needs of the earlier one is in the cache by then.
pub fn chunks(fills: &[Fill], size: usize, tile: usize) -> Vec<Chunk> {
    let mut chunks: Vec<Chunk> = Vec::new();
    for fill in fills {
        let mut at = 0;
        while at < fill.tokens.len() {
            if chunks.last().is_none_or(|c| c.rows.len() == size) {
                chunks.push(Chunk::default());
            }
            let Some(chunk) = chunks.last_mut() else { break };
            let start = chunk.rows.len();
            let count = (size - start).min(fill.tokens.len() - at);
            chunk.rows.extend(fill.tokens[at..at + count].iter().enumerate().map(|(i, token)| Row {
                token: *token,
                position: (at + i) as u32,
                table: fill.table,
                sampling: Sampling::GREEDY,
                uniform: 0.0,
            }));
            chunk.tiles.extend((0..count).step_by(tile).map(|first| Tile {
                row: start + first,
                count: tile.min(count - first),
                position: at + first,
                table: fill.table,
            }));
            at += count;
        }
    }
    chunks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_token_of_every_prompt_is_in_one_row_and_one_tile() {
        let texts: Vec<Vec<u32>> =
            [3usize, 0, 70, 1, 64, 200].iter().map(|n| (0..*n as u32).map(|t| t + 7).collect()).collect();
        let fills: Vec<Fill> = texts.iter().enumerate().map(|(i, t)| Fill { tokens: t, table: 5 + i }).collect();
        let made = chunks(&fills, 64, 16);
        assert!(made.iter().rev().skip(1).all(|c| c.rows.len() == 64));
        let mut found: Vec<(usize, u32, u32)> = Vec::new();
        for chunk in &made {
            let mut next = 0;
            for tile in &chunk.tiles {
                assert_eq!(tile.row, next);
                assert!(tile.count >= 1 && tile.count <= 16);
                for (i, row) in chunk.rows[tile.row..][..tile.count].iter().enumerate() {
                    assert_eq!((row.table, row.position as usize), (tile.table, tile.position + i));
                    found.push((row.table, row.position, row.token));
                }
                next += tile.count;
            }
            assert_eq!(next, chunk.rows.len());
        }
        let expected: Vec<(usize, u32, u32)> =
            fills.iter().flat_map(|f| f.tokens.iter().enumerate().map(|(i, t)| (f.table, i as u32, *t))).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn a_rows_words_are_those_of_the_kernels() {
        let sampling = Sampling { temperature: 0.5, top_k: 7, top_p: 0.25, min_p: 2.0 };
        let row = Row { token: 9, position: 3, table: 2, sampling, uniform: 0.75 };
        let words = row.words();
        assert_eq!(words[..4], [9, 3, 2, 7]);
        assert_eq!([words[4], words[5], words[6]].map(f32::from_bits), [0.5, 0.25, 2.0]);
        assert_eq!(u64::from(words[8]) | u64::from(words[9]) << 32, 3 << 51);
    }
}
